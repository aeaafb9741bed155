"""That the run of the clients finds what is wrong, and that the page shows the clients that are run."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.clients import run
from tests.clients.environments import ENVIRONMENTS
from tests.clients.run import BEGIN, CLIENTS, END, PAGE, SCRIPTS, Client, Outcome, faults, table

BEST = [(place, 1 - i / 10) for i, place in enumerate((1, 4, 2, 6, 3, 0, 5))]
RANKED = {"ranked": [list(one) for one in BEST]}
ERROR = {"error": "x.Error", "message": "no"}
GOOD: dict[str, Any] = {
    "rank": RANKED,
    "again": RANKED,
    "top": {"ranked": RANKED["ranked"][:3]},
    "bad_key": ERROR,
    "unknown_model": ERROR,
    "no_documents": ERROR,
    "hostile": {"ranked": RANKED["ranked"][:3]},
}
ANY = CLIENTS[0]


def test_a_client_that_gets_what_podium_says_works() -> None:
    assert list(faults(ANY, GOOD, BEST)) == []
    assert list(faults(ANY, {**GOOD, "no_documents": {"ranked": []}}, BEST)) == []
    tei = Client("t", "light", "s", "", "/rerank", gives_all=True)
    assert list(faults(tei, {**GOOD, "top": RANKED, "unknown_model": RANKED}, BEST)) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"rank": ERROR}, "rank: x.Error: no"),
        ({"again": {"ranked": RANKED["ranked"][::-1]}}, "again: the order is"),
        ({"rank": {"ranked": [[place, 0.5] for place, _ in BEST]}}, "rank: the scores are"),
        ({"top": RANKED}, "top: the order is"),
        ({"hostile": ERROR}, "hostile"),
        ({"bad_key": RANKED}, "a wrong key got an answer"),
        ({"unknown_model": RANKED}, "an unknown model got an answer"),
        ({"no_documents": RANKED}, "no documents got an answer"),
    ],
)
def test_one_that_does_not_is_found(wrong: dict[str, Any], told: str) -> None:
    found = list(faults(ANY, {**GOOD, **wrong}, BEST))
    assert any(told in fault for fault in found), found


def test_the_table_says_who_does_not_work_and_why() -> None:
    good = Outcome(ANY, "c 1", (), GOOD)
    bad = Outcome(CLIENTS[1], "c 2", ("rank: x.Error: no",), {**GOOD, "rank": ERROR})
    said = table([good, bad])
    assert said.startswith("1 of 2 work")
    assert f"- {CLIENTS[1].title} (c 2): rank: x.Error: no" in said


def test_every_client_has_a_script_and_an_environment() -> None:
    for client in CLIENTS:
        assert (SCRIPTS / f"{client.script}.py").is_file()
        assert client.environment in ENVIRONMENTS
    assert len({(client.title, client.environment) for client in CLIENTS}) == len(CLIENTS)


def test_the_page_shows_the_clients_that_are_run() -> None:
    shown = PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = re.findall(r"^\| (\S.*?) \| ", shown, re.MULTILINE)
    assert rows[2:] == [client.title for client in CLIENTS], "run make test-clients"
    assert run.PAGE.name == "clients.md"
