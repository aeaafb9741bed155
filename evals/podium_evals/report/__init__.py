"""The report: one HTML file that opens from a disk, without a network, and shows what each pipeline buys.

`page.write(results, path)` draws `results.Results` and nothing else. Tables are written here; charts and the pages of
queries are drawn in the reader's browser, out of JSON that lies in the file, by the scripts in `assets/`.
"""

from podium_evals.report.page import write

__all__ = ["write"]
