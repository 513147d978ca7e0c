"""The card of the speed benchmark: tables for people, and the same as plain values.

Knows the readings; measures nothing.
"""

from __future__ import annotations

from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from scripts.benchmarks.card import print_table

if TYPE_CHECKING:
    from scripts.benchmarks.trials import Readings, Trials

_TERA = 1e12
_MARGIN_DB = 0.5
_ROUNDING_DB = 80  # one number in 1,500 is off by one of 256 levels: what a batch's size does

NOTES = (
    "plain: a call of diffusers' StableDiffusionPipeline and a PNG for each frame; strong: the "
    "same at its best batch, without PNGs; videos: the algorithm of stable-diffusion-videos",
    "ours, exact: every frame rendered, as plain has them; solved: few are rendered, the others "
    "solved from these; even: as usual, moved to where the picture changes evenly",
    "seconds: from prompts to the closed mp4, of which the median counts; it/s: calls of the UNet "
    "in each of them, whatever else is done",
    "limit: every frame rendered once, by the UNet and the decoder alone, as fast as the fastest "
    "matrix product of this run; what solves frames can pass it",
    "worst, mean dB: solved frames against renders at the same positions",
    f"fp32 dB: {{sampled}} frames against plain in float32; exact is what has {_ROUNDING_DB} dB, "
    f"or in 16 bits no more than {_MARGIN_DB} dB less than plain",
    "text: calls of the text encoder beside that for the empty prompt, which the model keeps",
)

_SPEED = {
    "kind": "kind",
    "seconds": "seconds",
    "fastest_seconds": "fastest",
    "seconds_iqr": "IQR",
    "frames_per_second": "frames/s",
    "speedup": "× plain",
    "percent_of_limit": "% limit",
    "worst_psnr": "worst dB",
    "mean_psnr": "mean dB",
    "float32_psnr": "fp32 dB",
}
_WORK = {
    "kind": "kind",
    "batch_size": "batch",
    "renders": "renders",
    "solved": "solved",
    "text_calls": "text",
    "unet_calls": "UNet",
    "unet_samples": "samples",
    "decoded": "decoded",
    "unet_calls_per_second": "it/s",
    "tflop_per_second": "TFLOP/s",
    "percent_of_rate": "% rate",
    "processor_seconds": "cpu s",
}


def describe_trials(trials: Trials) -> dict[str, Any]:
    """What was made and measured, as JSON has it."""
    spec, sampling = trials.spec, trials.spec.sampling
    return {
        "weights": "random weights: speed only" if trials.is_random else "the model's own",
        "model": trials.model.name,
        "dtype": str(trials.model.dtype).removeprefix("torch."),
        "rounds": trials.rounds,
        "warmups": trials.warmups,
        "film": {
            "keyframes": len(spec.keyframes),
            "num_frames": spec.num_frames,
            "num_inference_steps": sampling.num_inference_steps,
            "guidance_scale": spec.keyframes[0].guidance_scale,
            "scheduler": sampling.scheduler,
            "height": sampling.height,
            "width": sampling.width,
        },
        "limit": _describe_limit(trials),
        "waits": trials.waits,
        "films": _describe_arms(trials),
    }


def print_card(document: dict[str, Any]) -> None:
    """The tables and what they mean, on stdout."""
    from scripts.benchmarks.fidelity import SAMPLED

    film, limit, machine = document["film"], document["limit"], document["machine"]
    print(
        f"{document['model']} in {document['dtype']} ({document['weights']}), "
        f"{film['keyframes']} prompts, {film['num_frames']} frames of {film['width']} × "
        f"{film['height']}, {film['num_inference_steps']} steps of {film['scheduler']}, guidance "
        f"{film['guidance_scale']:g}; {document['rounds']} rounds after {document['warmups']} "
        "warm-ups"
    )
    print_table("Speed, and what it costs in quality", _SPEED, document["films"])
    print_table(
        "What was asked of the networks, and what they reached of the rate of matrix products",
        _WORK,
        document["films"],
    )
    print(
        f"the limit: {limit['seconds']:.3f} s, {limit['frames_per_second']:.3f} frames/s: "
        f"{limit['picture_flops'] / _TERA:.4g} TFLOP a frame at "
        f"{limit['flops_per_second'] / _TERA:.4g} TFLOP/s"
    )
    print(f"waits for a device in all {film['num_inference_steps']} steps: {document['waits']}")
    for note in NOTES:
        print(note.format(sampled=SAMPLED))
    print(
        f"{machine['device']}: {machine['name']}, {machine['cores']} cores, {machine['threads']} "
        f"threads, load {machine['load']}, {machine['system']}; "
        f"{', '.join(f'{name} {version}' for name, version in document['versions'].items())}; "
        f"commit {document['commit'] or 'unknown'}"
    )


def is_exact(psnr: float, plain_psnr: float) -> bool:
    """Whether frames are the plain pipeline's but for rounding, by their PSNR to float32."""
    return psnr >= min(plain_psnr - _MARGIN_DB, _ROUNDING_DB)


def _describe_limit(trials: Trials) -> dict[str, Any]:
    work, rate = trials.work, trials.rate
    return {
        "flops_per_second": rate.flops_per_second,
        "flops_per_processor_second": rate.flops_per_processor_second,
        "unet_flops": work.unet,
        "decode_flops": work.decode,
        "samples": work.samples,
        "picture_flops": work.picture,
        "seconds": trials.limit_seconds,
        "frames_per_second": trials.spec.num_frames / trials.limit_seconds,
    }


def _describe_arms(trials: Trials) -> list[dict[str, Any]]:
    lines = [_describe_arm(trials, readings) for readings in trials.readings]
    plain = lines[0]
    for line in lines:
        line["speedup"] = line["frames_per_second"] / plain["frames_per_second"]
        line["is_exact"] = None
        if line["float32_psnr"] is not None:
            line["is_exact"] = is_exact(line["float32_psnr"], plain["float32_psnr"])
    return lines


def _describe_arm(trials: Trials, readings: Readings) -> dict[str, Any]:
    films, film = readings.films, readings.films[0]
    counts = film.counts
    assert counts is not None  # of a counted film
    seconds = [one.seconds for one in films]
    middle, flops = median(seconds), trials.work.done(counts)
    frames_per_second = len(film.files) / middle
    limit = trials.spec.num_frames / trials.limit_seconds
    return {
        "kind": readings.arm.name,
        "batch_size": readings.arm.batch_size,
        "frames": len(film.files),
        "renders": film.renders,
        "solved": readings.solved,
        "seconds": middle,
        "fastest_seconds": min(seconds),
        "seconds_iqr": _find_iqr(seconds),
        "processor_seconds": median(one.processor_seconds for one in films),
        "frames_per_second": frames_per_second,
        "percent_of_limit": 100 * frames_per_second / limit,
        "text_calls": counts.text_calls,
        "unet_calls": counts.unet_calls,
        "unet_samples": counts.unet_samples,
        "decoded": counts.decoded,
        "unet_calls_per_second": counts.unet_calls / middle,
        "tflop": flops / _TERA,
        "tflop_per_second": flops / _TERA / middle,
        "percent_of_rate": 100 * flops / middle / trials.rate.flops_per_second,
        "float32_psnr": readings.float32_psnr,
        "worst_psnr": readings.worst_psnr,
        "mean_psnr": readings.mean_psnr,
    }


def _find_iqr(seconds: list[float]) -> float | None:
    if len(seconds) < 2:
        return None
    low, _, high = quantiles(seconds, n=4, method="inclusive")
    return high - low
