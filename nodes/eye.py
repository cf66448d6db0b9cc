"""Tune by Eye: Try gives the graph the schedules of a sheet, Choose shows the pictures and counts
the answer. All that is between them is the user's own graph, run once for each picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..eye import shapes
from ..eye.on_run import OnRun, Watched
from ..eye.session import COMPARE, FOUND, Made, Round
from . import eye_store as store
from .eye_made import made_by
from .eye_sheet import LETTERS, cells_of, kept_files, labelled, scores_of
from .eye_status import best_schedule, line, saved_once, status
from .host import schema
from .inputs import CATEGORY, NAMES, Deviation
from .run.checks import require_kind, short
from .run.family import model_family
from .run.weights import weights_sha256

TuningType = io.Custom("ASYNC_TUNING")
PROMPTS = "two red circles above a blue star on a dark rough background"
EYE_NAMES = [*NAMES, "tune by eye", "preference", "choose", "schedule", "compare"]


@dataclass(frozen=True)
class Tuning:
    """What Try tells Choose. session: its name. round: of the session. watched: what the runs
    were, filled while they run."""

    session: str
    round: int
    watched: Watched


class AsyncTimestepTry(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncTimestepTry",
            display_name="Tune by Eye: Try",
            category=CATEGORY,
            search_aliases=EYE_NAMES,
            description="Makes the same pictures with several schedules, for Tune by Eye: Choose: "
            "about twenty choices find a detail schedule for your model, prompts and steps.",
            inputs=[
                io.String.Input(
                    "session",
                    default="my schedule",
                    tooltip="Which search goes on: a name of yours. What you have chosen is kept "
                    "under it in ComfyUI's user folder; another name begins another search.",
                ),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default=PROMPTS,
                    tooltip="What the pictures show: one prompt a line, which the sheets take in "
                    "turn. Take the kind of prompts that you want the schedule for.",
                ),
                io.Int.Input(
                    "steps",
                    default=4,
                    min=2,
                    max=1000,
                    tooltip="How finely the pictures are worked out: connect the output steps to "
                    "the sampler. The schedule is for this number of steps, and a search keeps it.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["conditioning", "follow_time"],
                    default="conditioning",
                    tooltip="Which look is searched: conditioning is the paper's, follow_time "
                    "Detail Daemon's. A search keeps it.",
                ),
                io.Int.Input(
                    "pictures",
                    default=4,
                    min=1,
                    max=8,
                    tooltip="How many rows a sheet has, each another prompt and seed. One picture "
                    "is too few to judge by; four have found more in the same number of choices.",
                ),
                io.Int.Input(
                    "first_seed",  # the editor would change one that is called seed at every run
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFF,
                    tooltip="The noise that the pictures start from: the sheets' seeds follow from "
                    "it, the same for all pictures of a row and others on every sheet.",
                ),
                io.Int.Input(
                    "choice",
                    default=0,
                    min=0,
                    max=6,
                    tooltip="Your answer as a number, in the place of a click: 0 none, 1 to 4 the "
                    "column A to D, 5 none better, 6 all alike. It needs the sheet's number in "
                    "round.",
                ),
                io.Int.Input(
                    "round",
                    default=0,
                    min=0,
                    max=100000,
                    tooltip="The sheet that choice answers: its number stands over it. So a graph "
                    "that is queued again is never counted twice.",
                ),
                io.Boolean.Input(
                    "compare",
                    default=False,
                    tooltip="Shows the last sheets: what the search has found beside off and "
                    "beside one more step, on new seeds, and then says whether you could tell.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Remembers which model the search is for, so that it is not mixed with "
                    "another's: connect the loader. It is not changed.",
                ),
            ],
            outputs=[
                Deviation.Output(
                    display_name="deviation",
                    is_output_list=True,
                    tooltip="The schedule of each picture: connect it to an Async Timestep node.",
                ),
                io.String.Output(
                    display_name="prompt",
                    is_output_list=True,
                    tooltip="The prompt of each picture: connect it to a CLIP Text Encode.",
                ),
                io.Int.Output(
                    display_name="seed",
                    is_output_list=True,
                    tooltip="The seed of each picture: connect it to the sampler.",
                ),
                io.Int.Output(
                    display_name="steps",
                    is_output_list=True,
                    tooltip="The steps of each picture: connect it to the sampler. Only the last "
                    "sheets have one more for a column.",
                ),
                TuningType.Output(
                    display_name="tuning", tooltip="The sheet: connect it to Tune by Eye: Choose."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls, session, prompts="", steps=4, mode="", pictures=4, first_seed=0, choice=0,
        round=0,
        compare=False, model=None,
    ):  # fmt: skip
        """The same as long as the same sheet is shown: it depends on the answers alone, and the one
        in this graph counts as given. A name that comes over a wire is not known here."""
        return (
            float("nan") if session is None else store.sheet_mark(session, choice, round, compare)
        )

    @classmethod
    def execute(
        cls, session, prompts, steps, mode, pictures, first_seed, choice=0, round=0,
        compare=False, model=None,
    ) -> io.NodeOutput:  # fmt: skip
        store.require_whole(
            steps=steps, pictures=pictures, first_seed=first_seed, choice=choice, round=round
        )
        family = weights = ""
        if model is not None:
            require_kind("model", model, ModelPatcher, "a model loader")
            family, weights = model_family(model), weights_sha256(model)
        now = store.next_sheet(
            session, store.lines_of(prompts), steps, mode, pictures, first_seed, choice, round,
            compare, family, weights,
        )  # fmt: skip
        sheet, number = now.rounds[-1], len(now.rounds)
        watched = Watched(now.model_family, now.times)
        policies = [
            OnRun(schedule_of(sheet, place, now.mode), watched, place) for place in sheet.order
        ] * sheet.rows
        entries = sheet.entries()
        return io.NodeOutput(
            policies,
            [entry.prompt for entry in entries],
            [entry.seed for entry in entries],
            [entry.steps for entry in entries],
            Tuning(now.name, number, watched),
        )


def schedule_of(sheet: Round, place: int, mode: str):
    """What makes the schedule of a column from flow times; None where its D is 0 on a last sheet,
    which is off itself."""
    if sheet.kind == COMPARE and place != FOUND:
        return None
    return partial(shapes.schedule, sheet.shown[place], mode=mode)


class AsyncTimestepChoose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncTimestepChoose",
            display_name="Tune by Eye: Choose",
            category=CATEGORY,
            search_aliases=EYE_NAMES,
            description="Shows the sheet of Tune by Eye: Try; click the column that you like best, "
            "then Run for the next. Save writes the schedule that you have found into models/tpm.",
            is_input_list=True,
            is_output_node=True,
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            inputs=[
                TuningType.Input("tuning", tooltip="The sheet: of Tune by Eye: Try."),
                io.Image.Input(
                    "images",
                    tooltip="The pictures that you choose from: the decoded images of what Try "
                    "gave to your sampler.",
                ),
                io.Float.Input(
                    "score",
                    optional=True,
                    force_input=True,
                    tooltip="Chooses in your place: one number a picture, higher is better, from "
                    "any node that scores images. Each queued run is then one choice.",
                ),
                io.String.Input(
                    "file_name",
                    default="",
                    optional=True,
                    tooltip="Saves what is found now into models/tpm under this name, when the "
                    "graph runs. Empty saves nothing; the button Save asks for a name. Nothing is "
                    "ever overwritten.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The sheet with its letters, to keep or to compare."),
                io.String.Output(
                    display_name="text", tooltip="What the search would pick, and how sure it is."
                ),
                Deviation.Output(
                    display_name="deviation",
                    tooltip="What the search would pick now: connect it to an Async Timestep node "
                    "to use it without saving.",
                ),
            ],
        )

    @classmethod
    def execute(cls, tuning, images, score=None, file_name=("",)) -> io.NodeOutput:
        tuning = tuning[0]
        if not isinstance(tuning, Tuning):
            raise ValueError(
                f"tuning is {short(tuning)}, expected what Tune by Eye: Try gives; connect one."
            )
        now, sheet = store.sheet_of(tuning.session, tuning.round)
        cells = cells_of(images, sheet.rows, sheet.columns)
        store.require_watched(now, sheet, tuning.watched)
        hidden = cls.hidden
        prompt = (hidden.prompt or {}) if hidden else {}
        made = made_by(prompt, hidden.unique_id if hidden else "")
        made["latent_channels"] = tuning.watched.channels
        made["resolution"] = max(cells[0][0].shape)
        now = store.remembered(now, tuning.watched, Made(**made))
        if score is not None:
            now = store.judged(now, tuning.round, scores_of(score, len(images), sheet.columns))
        said = saved_once(now, file_name[0])
        letters = list(LETTERS[: sheet.columns])
        shown = {
            "session": now.name,
            "round": tuning.round,
            "kind": sheet.kind,
            "letters": letters,
            "prompts": [p for p in sheet.prompts for _ in range(len(cells) // sheet.rows)],
            "pictures": kept_files(cells),
            "status": status(now, tuning.round, said),
        }
        text = line(now)
        policy = best_schedule(now)
        found = {"tune_by_eye": [shown], "text": [text]}
        return io.NodeOutput(labelled(cells, letters, tuning.round), text, policy, ui=found)
