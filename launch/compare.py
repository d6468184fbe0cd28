"""Compare runs: their configs, curves, figures and pictures.

  python launch/compare.py runs/a runs/b --output=compare.html

It prints tables, and writes a page with the same tables, curves against steps, images, time and cost, and
the newest previews. The figures are read from WORKDIR/report, into which launch/evaluate.py writes by default.
All runs are compared with the first one. docs/evaluation.md explains when a difference counts.
"""

from t2i_tpu.process import interruptible  # noqa: F401

# isort: split
from absl import flags

from t2i_tpu import cli
from t2i_tpu.errors import UserError
from t2i_tpu.options import check_float

OUTPUT = cli.define_path("output", "compare.html", "HTML file to write, local or gs://.")
PRICE = flags.DEFINE_list(
    "price_per_hour",
    None,
    "Price of an hour of training in dollars, for the estimated cost: one number for all runs, or one "
    "for each, separated by commas.",
)


def main(*workdirs: str) -> None:
    from t2i_tpu.evaluate.report.figures import list_descriptions

    descriptions = list_descriptions()  # raises UserError if the extra `evaluate` is missing
    from t2i_tpu.evaluate.compare import page, tables
    from t2i_tpu.evaluate.compare.runs import read_runs
    from t2i_tpu.storage import outputs

    if not OUTPUT.value.lower().endswith((".html", ".htm")):
        raise UserError(f"--output={OUTPUT.value}: the page must end in .html")
    prices = _parse_prices(len(workdirs))
    outputs.check_file(OUTPUT.value, "--output=")
    runs = read_runs(workdirs)
    content = [
        tables.compare_configs(runs),
        tables.compare_progress(runs, prices),
        *tables.compare_reports(runs, descriptions),
    ]
    for table in content:
        print(table.to_text(), end="\n\n")
    text = page.make_page(runs, content, prices, descriptions)
    outputs.write_file(OUTPUT.value, text.encode())
    print(OUTPUT.value)


def _parse_prices(count: int) -> list[float] | None:
    """Return the price of an hour of each run, or None if no price is given."""
    if not PRICE.value:
        return None
    before = f"--price_per_hour={','.join(PRICE.value)}"
    try:
        prices = [float(text) for text in PRICE.value]
    except ValueError as error:
        raise UserError(f"{before}: it must be a number, or one for each run") from error
    for price in prices:
        check_float("--price_per_hour", price)
        if price < 0:
            raise UserError(f"{before}: a price must be at least 0")
    if len(prices) not in (1, count):
        raise UserError(f"{before}: give one price for all runs, or {count}, one for each")
    return prices * count if len(prices) == 1 else prices


if __name__ == "__main__":
    cli.run(main, positional="RUN...")
