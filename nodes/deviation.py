"""The deviation wire: Deviation, Deviation Scale, Velocity Scale and the TPM Loader."""

from __future__ import annotations

import os

import comfy_api.input
import folder_paths
from comfy_api.latest import io

from ..tpm.checkpoint import load_tpm
from ..tpm.detail_daemon import NAME as DETAIL_DAEMON
from ..tpm.detail_daemon import DetailDaemon
from ..tpm.learned import TPMPolicy
from ..tpm.metadata import shown
from ..tpm.policies import (
    MODES,
    UNITS,
    Absent,
    Constant,
    Curve,
    Policy,
    Preset,
    Scaled,
    VelocityScale,
    Window,
)
from ..tpm.schedule_file import is_schedule, load_schedule
from ..tpm.variance import VarianceMatch
from .host import HAS_CURVE, schema
from .inputs import (
    CATEGORY,
    NAMES,
    PRESET_NAMES,
    VARIANCE_MATCH,
    Deviation,
    deviation_input,
    scale_input,
    window_inputs,
)
from .run.checks import in_range, require_finite, require_kind

DEVIATION_TIP = "The detail at each step: connect it to an Async Timestep or a scale node."


def deviation_policy(
    preset: str = "auto",
    deviation: float = 0.5,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
    unit: str = "interval",
    mode: str = "conditioning",
    curve=None,
) -> Policy:
    """What the Deviation node returns. `curve`: the host's curve value; a flat 1 changes
    nothing.
    """
    require_window(start_percent, end_percent)
    require_finite(deviation=deviation)
    if preset == "custom":
        policy = Constant(deviation, unit, mode)
    elif preset == DETAIL_DAEMON:  # its start and end are shares of the steps, not of the noise
        policy = DetailDaemon(deviation, start_percent, end_percent, mode)
        start_percent, end_percent = 0.0, 1.0
    elif preset == VARIANCE_MATCH:  # its D is in intervals, whatever the unit
        policy = VarianceMatch(mode=mode)
    else:
        policy = Preset(preset, mode, unit)
    if curve is not None:
        shape = curve_shape(curve)
        if any(y != 1.0 for _, y in shape.points):
            policy = Curve(policy, shape.interp)
    if (start_percent, end_percent) != (0.0, 1.0):
        policy = Window(policy, start_percent, end_percent)
    return policy


def curve_shape(curve):
    """The host's curve value as its curve object. Raises ValueError where it is none."""
    try:
        shape = comfy_api.input.CurveInput.from_raw(curve)
        good = len(shape.points) > 0 and all(in_range(c) for p in shape.points for c in p)
    except (KeyError, TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(
            f"The curve is {shown(curve)}, expected points (x, y) of finite numbers; draw it "
            "again, or take the node off that is connected to it."
        )
    return shape


def require_window(start_percent: float, end_percent: float) -> None:
    require_finite(start_percent=start_percent, end_percent=end_percent)
    if start_percent > end_percent:
        raise ValueError(
            f"start_percent is {start_percent:g} and end_percent {end_percent:g}; "
            "the start must not lie behind the end: exchange the two."
        )


class AsyncTimestepDeviation(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        curve = (
            [
                io.Curve.Input(
                    "curve",
                    optional=True,
                    socketless=False,
                    default=[(0.0, 1.0), (1.0, 1.0)],
                    tooltip="Shapes the deviation over the sampling, left is the noisy start: the "
                    "value "
                    "multiplies it. Draw here or connect a Curve Editor.",
                )
            ]
            if HAS_CURVE
            else []
        )
        return schema(
            node_id="AsyncTimestepDeviation",
            display_name="Deviation",
            category=CATEGORY,
            search_aliases=NAMES,
            description="Sets amount, start, end and shape of the detail. With the preset custom "
            "the number counts.",
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=[*PRESET_NAMES, DETAIL_DAEMON],
                    default="custom",
                    tooltip="How much detail: custom takes the number below, auto the published "
                    "value for the loaded model (an untested +0.25 where it has none), flux1_dev "
                    "and sd35_medium theirs, variance match looks for it in the image; detail "
                    "daemon is that node's curve, the number its detail_amount x cfg.",
                ),
                io.Float.Input(
                    "deviation",
                    default=0.5,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="More detail above 0, a smoother image below; 0 is the stock result. "
                    "Read with the presets custom and detail daemon.",
                ),
                *window_inputs(),
                io.Combo.Input(
                    "unit",
                    options=list(UNITS),
                    default="interval",
                    tooltip="Whether the effect gets weaker with more steps: interval does (the "
                    "paper's), percent does not, so it is the one for 15 steps or more; 1 percent "
                    "is as strong as detail_amount x cfg = 1 of Detail Daemon.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="conditioning",
                    tooltip="Which look: conditioning is the paper's, follow_time Detail Daemon's "
                    "(on flow models the same image; on eps models such as SD1.5 and SDXL it "
                    "leaves noise in the picture).",
                ),
                *curve,
            ],
            outputs=[Deviation.Output(display_name="deviation", tooltip=DEVIATION_TIP)],
        )

    @classmethod
    def execute(cls, **inputs) -> io.NodeOutput:
        return io.NodeOutput(deviation_policy(**inputs))


class AsyncTimestepDeviationScale(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncTimestepDeviationScale",
            display_name="Deviation Scale",
            category=CATEGORY,
            search_aliases=[*NAMES, "gamma"],
            description="Turns a deviation up or down, everywhere or in a part of the sampling.",
            inputs=[
                deviation_input("none where nothing is connected (or it is bypassed): off"),
                scale_input(),
                *window_inputs(),
            ],
            outputs=[
                Deviation.Output(
                    display_name="deviation",
                    tooltip="The same detail turned up or down: connect it as before.",
                )
            ],
        )

    @classmethod
    def execute(cls, deviation_scale, start_percent, end_percent, deviation=None) -> io.NodeOutput:
        require_window(start_percent, end_percent)
        require_finite(deviation_scale=deviation_scale)
        require_kind("deviation", deviation, Policy, "a Deviation node or a TPM Loader")
        policy = Absent() if deviation is None else deviation
        return io.NodeOutput(Scaled(policy, deviation_scale, start_percent, end_percent))


class AsyncTimestepVelocityScale(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncTimestepVelocityScale",
            display_name="Velocity Scale",
            category=CATEGORY,
            search_aliases=[*NAMES, "omega", "eta"],
            description="Sharper and rougher above 1, softer below (omega in the paper): instead "
            "of a deviation, or on top of one.",
            inputs=[
                deviation_input("without one only omega acts"),
                io.Combo.Input(
                    "mode",
                    options=["constant", "follow_time"],
                    default="constant",
                    tooltip="Which look: constant uses the number below and leaves the last step "
                    "alone; follow_time takes the connected deviation's, which is Detail Daemon's "
                    "look on flow models and leaves noise on eps models such as SD1.5 and SDXL.",
                ),
                io.Float.Input(
                    "omega",
                    default=1.0,
                    min=0.5,
                    max=1.5,
                    step=0.01,
                    tooltip="Crisper and rougher above 1, calmer below; 1 is the stock result.",
                ),
                *window_inputs(),
            ],
            outputs=[Deviation.Output(display_name="deviation", tooltip=DEVIATION_TIP)],
        )

    @classmethod
    def execute(cls, mode, omega, start_percent, end_percent, deviation=None) -> io.NodeOutput:
        require_window(start_percent, end_percent)
        require_finite(omega=omega)
        require_kind("deviation", deviation, Policy, "a Deviation node or a TPM Loader")
        return io.NodeOutput(VelocityScale(deviation, omega, mode, start_percent, end_percent))


def path_of(tpm_name: object) -> str | None:
    """The file of models/tpm with that name, None where there is none; a prompt may hold anything
    there, since `validate_inputs` lets it."""
    known = isinstance(tpm_name, str) and "\0" not in tpm_name
    return folder_paths.get_full_path("tpm", tpm_name) if known else None


class AsyncTimestepTPMLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="AsyncTimestepTPMLoader",
            display_name="TPM Loader",
            category=CATEGORY,
            search_aliases=[*NAMES, "timestep prediction module", "schedule"],
            description="Automatic detail: a small file, trained or searched for one model, "
            "decides how much at each step: a TPM for each image, a schedule for all alike. Files "
            "go to models/tpm; make one with training/train_tpm.py or search_schedule.py.",
            inputs=[
                io.Combo.Input(
                    "tpm_name",
                    options=folder_paths.get_filename_list("tpm"),
                    tooltip="What chooses the detail: a trained network, for each image at each "
                    "step, or a schedule, by the step alone. A file of models/tpm, for the model "
                    "family that it was made on.",
                )
            ],
            outputs=[Deviation.Output(display_name="deviation", tooltip=DEVIATION_TIP)],
        )

    @classmethod
    def validate_inputs(cls, tpm_name):
        """Any name: a file that is not there gets its sentence from `execute`, which the editor
        shows in full; of a refused name it shows only "Invalid input"."""
        return True

    @classmethod
    def fingerprint_inputs(cls, tpm_name):
        path = path_of(tpm_name)
        return None if path is None else os.path.getmtime(path)

    @classmethod
    def execute(cls, tpm_name) -> io.NodeOutput:
        path = path_of(tpm_name)
        if path is None:
            raise ValueError(
                f"There is no TPM {shown(tpm_name)} in models/tpm, expected a file of the list; "
                "copy it there and press R, train one with training/train_tpm.py of this node "
                "pack, or use a Deviation node."
            )
        if is_schedule(path):
            return io.NodeOutput(load_schedule(path)[0])
        module, meta = load_tpm(path)
        return io.NodeOutput(TPMPolicy(module, meta, name=os.path.basename(tpm_name)))
