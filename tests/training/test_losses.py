"""Our losses against plain references, and against sentence-transformers' own where it has them."""

from __future__ import annotations

import math
from itertools import permutations

import pytest

torch = pytest.importorskip("torch", reason="the extra train is not installed: pip install 'podium[train]'")

from podium_server.training import torch_losses as losses  # noqa: E402
from podium_server.training.recipe import LIST_LOSSES  # noqa: E402

SCORES = [[0.3, -1.2, 2.0, 0.7, 0.7], [5.0, 4.0], [0.0, 0.0, 0.0]]
TARGETS = [[-0.7, -2.1, 0.0, -1.4, -3.0], [0.0, 4.0], [1.0, 0.0, -1.0]]
CASES = list(zip(SCORES, TARGETS, strict=True))


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def value(name: str, scores: list[float], targets: list[float]) -> float:
    return float(losses.LOSSES[name](torch.tensor(scores), torch.tensor(targets)))


def test_a_recipe_names_what_there_is() -> None:
    assert set(losses.LOSSES) == set(LIST_LOSSES)


@pytest.mark.parametrize(("scores", "targets"), CASES)
def test_values_are_those_of_plain_references(scores: list[float], targets: list[float]) -> None:
    n = len(scores)
    p, q = softmax(targets), softmax(scores)
    assert value("kl", scores, targets) == pytest.approx(
        sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)), abs=1e-5
    )
    assert value("listnet", scores, targets) == pytest.approx(
        -sum(a * math.log(b) for a, b in zip(p, q, strict=True)), abs=1e-5
    )
    pairs = [(i, j) for i in range(n) for j in range(n) if targets[i] > targets[j]]
    weights = [min(targets[i] - targets[j], 2) for i, j in pairs]
    wanted = sum(w * softplus(scores[j] - scores[i]) for w, (i, j) in zip(weights, pairs, strict=True)) / sum(weights)
    assert value("ranknet", scores, targets) == pytest.approx(wanted, abs=1e-5)
    best = max(range(n), key=targets.__getitem__)
    margins = [((scores[best] - scores[i]) - (targets[best] - targets[i])) ** 2 for i in range(n)]
    assert value("margin-mse", scores, targets) == pytest.approx(sum(margins) / n, abs=1e-5)
    others = [scores[i] for i in range(n) if targets[i] < targets[best]]
    assert value("contrastive", scores, targets) == pytest.approx(
        math.log(sum(map(math.exp, [scores[best], *others]))) - scores[best], abs=1e-5
    )


@pytest.mark.parametrize(("scores", "targets"), CASES)
def test_listmle_is_a_probability_of_orders(scores: list[float], targets: list[float]) -> None:
    n = len(scores)
    total = sum(
        math.exp(-n * value("listmle", scores, [-float(order.index(i)) for i in range(n)]))
        for order in permutations(range(n))
    )
    assert total == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", [name for name in LIST_LOSSES if name not in ("mse", "bce", "margin-mse")])
def test_a_list_in_its_order_costs_less_than_one_upside_down(name: str) -> None:
    targets = [0.0, -0.7, -1.1, -1.4]
    good, bad = value(name, [3.0, 2.0, 1.0, 0.0], targets), value(name, [0.0, 1.0, 2.0, 3.0], targets)
    assert good < bad


@pytest.mark.parametrize("name", LIST_LOSSES)
def test_gradients_are_numbers_even_where_there_is_nothing_to_learn(name: str) -> None:
    for scores, targets in [*CASES, ([1.0, 2.0], [0.0, 0.0]), ([1e4, -1e4, 0.0], [0.0, -5.0, 3.0])]:
        x = torch.tensor(scores, requires_grad=True)
        losses.LOSSES[name](x, torch.tensor(targets)).backward()
        assert x.grad is not None
        assert bool(torch.isfinite(x.grad).all())


def test_in_batch_is_the_cross_entropy_of_the_diagonal_without_copies() -> None:
    scores = torch.tensor([[2.0, 1.0, 3.0], [0.0, 1.0, 1.0]])
    same = torch.tensor([[False, False, True], [False, False, False]])
    wanted = (-math.log(softmax([2.0, 1.0])[0]) - math.log(softmax([0.0, 1.0, 1.0])[1])) / 2
    assert float(losses.in_batch(scores, same)) == pytest.approx(wanted, abs=1e-5)


class _Given(torch.nn.Module):
    """Stands where the library wants a model: its scores are known."""

    num_labels = 1
    device = torch.device("cpu")

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = torch.tensor(scores)

    def preprocess(self, pairs: object, **_: object) -> dict[str, object]:
        return {}

    def forward(self, _: object) -> dict[str, object]:
        return {"scores": self.scores}


@pytest.mark.parametrize(("scores", "targets"), CASES[:2])
@pytest.mark.parametrize(
    ("ours", "theirs"), [("listnet", "ListNetLoss"), ("listmle", "ListMLELoss"), ("ranknet", "RankNetLoss")]
)
def test_sentence_transformers_agrees(ours: str, theirs: str, scores: list[float], targets: list[float]) -> None:
    library = pytest.importorskip(
        "sentence_transformers.cross_encoder.losses", reason="sentence-transformers is not installed"
    )
    if ours == "listmle":
        # Theirs takes the documents to stand in the targets' order.
        scores, targets = (
            list(each) for each in zip(*sorted(zip(scores, targets, strict=True), key=lambda x: -x[1]), strict=True)
        )
    if ours == "ranknet":
        # Theirs weighs all pairs alike: targets so far apart that ours does, too. It takes the mean in bits.
        targets = [10.0 * target for target in targets]
    documents = [[f"d{i}" for i in range(len(scores))]]
    wanted = float(
        getattr(library, theirs)(_Given(scores), mini_batch_size=-1)([["q"], documents], [torch.tensor(targets)])
    )
    got = value(ours, scores, targets)
    if ours == "listmle":
        got *= len(scores)
    if ours == "ranknet":
        got /= math.log(2)
    assert got == pytest.approx(wanted, rel=1e-4)
