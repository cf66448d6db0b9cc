"""The life of a region in one sampling run: what a caller can do, and cannot do wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sampling import add_wrapper

import comfy.sample
import comfy.samplers

SENTENCE = r"^The region of a sampling run was used {}; [^.;]+\.$"


class Life:
    """Evaluations of one run on a tiny model, each inside of the tracker."""

    def __init__(self, pack, tiny, **region):
        self.pack, self.tiny, self.fail = pack, tiny, False
        columns = {"cat": [1, 2], "sofa": [4]}
        self.region = pack("nodes.run.region").Region(
            "words", columns=columns, strengths=(1.0, 0.5), **region
        )
        self.record = pack("report.trace").Run("a region", "tiny", [])
        self.tracker = pack("nodes.run.tracker").RegionTracker(self.region, self.record)

    def during(self, act) -> None:
        """Calls `act(evaluate, guider, x)` where a sampler runs."""

        def stop(executor, *args, **kwargs):
            out = executor(*args, **kwargs)
            if self.fail:
                raise InterruptedError
            return out

        def sampler(model, x, sigmas, extra_args, callback, disable):
            def evaluate(fail=False):
                self.fail = fail
                with self.tracker.evaluation(None, extra_args["model_options"]) as options:
                    sigma = sigmas[0] * x.new_ones(len(x))
                    model(x, sigma, **{**extra_args, "model_options": options})

            act(evaluate, model.inner_model, x)
            return x

        model, positive, negative, latent = self.tiny
        noise = comfy.sample.prepare_noise(latent, 5)
        comfy.sample.sample_custom(
            add_wrapper(model, "APPLY_MODEL", stop), noise, 3.0, comfy.samplers.KSAMPLER(sampler),
            torch.tensor([0.9, 0.5]), positive, negative, latent, disable_pbar=True,
        )  # fmt: skip


def test_an_evaluation_that_raises_moves_nothing_on(pack, families):
    life = Life(pack, families["sd35"])
    tracker = life.tracker

    def act(evaluate, guider, x):
        with tracker:
            tracker.fit(guider, x.shape, x.device)
            assert bool((tracker.weight == 1).all())
            evaluate()
            weight, masks = tracker.weight, list(tracker.masks)
            assert len(masks) == 1 and 0 < float(weight.mean()) < 1
            with pytest.raises(InterruptedError):
                evaluate(fail=True)
            assert tracker.weight is weight and tracker.masks == masks
            evaluate()
            assert len(tracker.masks) == 2 and torch.equal(tracker.masks[1], weight[:, 0])

    life.during(act)
    assert life.record.masks == tracker.masks and not life.record.warnings


def test_a_first_pass_that_raises_leaves_no_sum(pack, families):
    """Attention that was read in the failed evaluation does not count."""
    life = Life(pack, families["sd35"], static=True)
    tracker, held = life.tracker, []

    def act(evaluate, guider, x):
        for failing in (False, True):
            life.tracker = tracker = type(life.tracker)(life.region, life.record)
            with tracker:
                tracker.fit(guider, x.shape, x.device)

                def sample(failing=failing):
                    evaluate()
                    if failing:
                        with pytest.raises(InterruptedError):
                            evaluate(fail=True)

                tracker.first_pass(sample)
                held.append(tracker.weight)
                assert not tracker.is_collecting and tracker.masks == []
                evaluate()
                assert tracker.weight is held[-1] and len(tracker.masks) == 1, "held still"

    life.during(act)
    assert torch.equal(*held) and 0 < float(held[0].mean()) < 1
    assert tracker.masks == []


def test_outside_of_its_with_it_says_so(pack, families):
    life = Life(pack, families["sd35"], static=True)
    tracker = life.tracker
    outside = SENTENCE.format("outside of its `with`")

    def refused(sentence, *uses):
        for use in uses:
            with pytest.raises(RuntimeError, match=sentence):
                use()

    def act(evaluate, guider, x):
        def fit():
            tracker.fit(guider, x.shape, x.device)

        def first_pass():
            tracker.first_pass(evaluate)

        refused(outside, fit, first_pass, evaluate, lambda: tracker.weight)
        with tracker:
            refused(SENTENCE.format("before `fit`"), evaluate, lambda: tracker.weight, first_pass)
            fit()
            weight = tracker.weight
            fit()
            assert tracker.weight is weight, "the second time nothing"
            first_pass()
            evaluate()
        refused(outside, fit, first_pass, evaluate, lambda: tracker.weight)
        assert len(tracker.masks) == 1

    life.during(act)


def test_the_weight_stays_where_a_cache_answered(pack, families):
    life = Life(pack, families["sd35"])
    tracker = life.tracker

    def act(evaluate, guider, x):
        with tracker:
            tracker.fit(guider, x.shape, x.device)
            evaluate()
            weight = tracker.weight
            with tracker.evaluation(None, {}):
                pass  # the network was not called
            assert tracker.weight is weight and len(tracker.masks) == 2

    life.during(act)


def shaped_by_hand(mask: np.ndarray, grow: int, invert: bool, top: float) -> np.ndarray:
    """A mask (B, H, W) of the latent: the largest (smallest) value of a square, turned round, then
    the mean of the network's tokens of 2 x 2."""
    out, reach = np.empty_like(mask), abs(grow)
    for y, x in np.ndindex(mask.shape[1:]):
        around = mask[:, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        out[:, y, x] = around.max((1, 2)) if grow > 0 else around.min((1, 2))
    out = top - out if invert else out
    batch, height, width = out.shape
    means = out.reshape(batch, height // 2, 2, width // 2, 2).mean((2, 4))
    return means.repeat(2, 1).repeat(2, 2)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("grow,invert", [(1, False), (-1, False), (0, True), (1, True), (-1, True)])
def test_words_are_grown_then_inverted(pack, families, static, grow, invert):
    """Beside numpy on the weights of the same words without it; the first is the whole picture."""
    masks = {}
    for key, shape in {"off": {}, "on": {"grow": grow, "invert": invert}}.items():
        life = Life(pack, families["sd35"], static=static, **shape)

        def act(evaluate, guider, x, life=life):
            with life.tracker as tracker:
                tracker.fit(guider, x.shape, x.device)
                assert bool((tracker.weight == 1).all())
                tracker.first_pass(evaluate)
                evaluate()
                evaluate()

        life.during(act)
        masks[key] = [mask.numpy() for mask in life.tracker.masks]
    off, on = (masks[key][-1] for key in ("off", "on"))
    assert len(masks["on"]) == 2 and 0 < off.mean() < 1
    np.testing.assert_allclose(on, shaped_by_hand(off, grow, invert, 1.0), rtol=0, atol=1e-6)
    assert not np.array_equal(on, off)
