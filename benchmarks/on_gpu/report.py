"""The results of benchmarks/gpu.py as report.json and as markdown."""

import json
import pathlib
from statistics import median


def write_report(folder: pathlib.Path, results: dict) -> str:
    """Write report.json and report.md into a folder, and return the latter's text."""
    (folder / "report.json").write_text(json.dumps(results, indent=2) + "\n")
    text = format_report(results)
    (folder / "report.md").write_text(text)
    return text


def format_report(results: dict) -> str:
    """Return the results as markdown. Everything that was not measured is listed with its reason."""
    parts = [
        _format_machine(results),
        *map(_format_check, results["checks"]),
        _format_speeds(results),
        _format_picture(results["picture"]),
    ]
    if results["unfinished"]:
        cases = ", ".join(results["unfinished"])
        parts.append(
            f"There was no time to try all larger batches and modes of torch.compile for {cases}; a "
            "larger --budget may find faster ones."
        )
    if results["missing"]:
        parts.append(
            "Not measured:\n\n" + "\n".join(f"- {what}: {why}" for what, why in results["missing"])
        )
    return "\n\n".join(filter(None, parts)) + "\n"


def _format_machine(results: dict) -> str:
    versions = [f"{name} {version}" for name, version in results["versions"].items()]
    seconds = f"{results['seconds']:.0f} of {results['budget']:.0f} s"
    lines = [f"# benchmarks/gpu.py on {results['device']}", ", ".join([*versions, seconds]) + "."]
    if peak := results["peak"]:
        lines.append(
            f"Peak: {_format_tera(peak['flops_per_s'])} TFLOP/s, the rate of a product of two "
            f"{peak['size']}x{peak['size']} matrices in bfloat16, measured here."
        )
    return "\n\n".join(lines)


def _format_check(check: dict) -> str:
    verdict = "agree" if check["passed"] else "DISAGREE"
    return (
        f"The weights after {check['steps']} float32 steps of {check['name']} {verdict} with those "
        f"of TensorFlow on a CPU: relative to their change, they differ by {check['error']:.1e} "
        f"(limit {check['limit']:.0e})."
    )


def _format_speeds(results: dict) -> str:
    rows = [
        "| config | engine | parameters | GFLOP per image | batch | images/s | share of peak | "
        "compile | JAX / PyTorch |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case, engines in results["speeds"].items():
        for engine, speed in engines.items():
            rows.append(_format_speed(case, engine, speed, engines, results["peak"]))
    return "\n".join(rows) if len(rows) > 2 else ""


def _format_speed(case: str, engine: str, speed: dict, engines: dict, peak: dict | None) -> str:
    rates = speed["images_per_second"]
    share = "?"
    if peak:
        share = f"{median(rates) * speed['flops_per_image'] / peak['flops_per_s']:.0%}"
    ratio = ""
    if engine == "jax" and "peer" in engines:
        ratios = divide(rates, engines["peer"]["images_per_second"])
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    name = "JAX" if engine == "jax" else f"PyTorch, {speed['mode']}"
    return (
        f"| {case} | {name} | {speed['parameters'] / 1e6:.2f} M "
        f"| {speed['flops_per_image'] / 1e9:.2f} | {speed['batch_size']} "
        f"| {median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f}) | {share} "
        f"| {speed['compile_seconds']:.0f} s | {ratio} |"
    )


def divide(first: list[float], second: list[float]) -> list[float]:
    """Return the quotients of the rounds that both lists have."""
    return [a / b for a, b in zip(first, second, strict=False)]


def _format_tera(flops_per_s: float) -> str:
    return f"{flops_per_s / 1e12:.3g}"


def _format_picture(picture: dict | None) -> str:
    if not picture:
        return ""
    steps = f"{picture['steps']:,} of {picture['total_steps']:,} steps"
    return (
        f"emoji32 trained for {steps} of {picture['batch_size']} images in "
        f"{picture['train_seconds']:.0f} s (after {picture['compile_seconds']:.0f} s of compiling), to a "
        f"loss of {picture['loss']:.3f}, and drew {picture['images']} images in "
        f"{picture['draw_seconds']:.0f} s: {picture['file']}."
    )
