"""What a model sees is pinned: a changed byte is a new version, never a silent one."""

import pytest

from podium_strategies.plan import Grade, Order, Pick, Prefer
from podium_strategies.prompts import USUAL, UnknownPrompt, ids, load, names
from podium_strategies.prompts.prompt import Need, Reads, Sheet, Turn

GOLDEN = {
    "rank-gpt/1": "46ffa6ccb5adda29400bafd8d32bec6fe6baa260d4a499cc12ced9d4aad17b55",
    "rank-gpt-vicuna/1": "baa7507c83b005a6ad79585ae4a8e66d6acdb1e01b66d8475199e4a03829ab90",
    "rank-vicuna/1": "2f628d5584c2d917fe379d76c3a548d1785fa35bb2e7ca0046b87e27f13af7a5",
    "rank-vicuna-early/1": "5df0236cd41ca7dbaf070d8bdec48dd636e71d2c630dbb02a0dbc7a2b4f23990",
    "rank-zephyr/1": "50d9ac1b978d7d3f024f3dfcc0cd274ccea5a82099cc1fa08354049d05654d14",
    "rank-zephyr/2": "38299170dc6e67535a453f8e0c448129c279f047aa277b568f3ecea4483fb708",
    "first/1": "ce2a68f01a93f51d04ac098051365220a010225527869877faeba99d7afb7176",
    "listwise-json/1": "ef30ce13243734f21cbe5ed8b01da7949f8ba6b8b7e23aae2469f2e84d5ab74f",
    "choose-best/1": "82f0403d3944f33d2311592fe3a7e9722ca86b45263f50b0b9986c41eddb1a96",
    "yes-no/1": "3f291fb4f0cf1401426873fedf28b2bae943dac590110d0915c3716d1fc58963",
    "graded/1": "fdade7248e9539dc88a4e5213fb8e3a20754b28df7bfff181b242ddf3f417a09",
    "graded-umbrela/1": "150411a84307676ca84954f46befc30b4fb73c52d28d94dfea9f91976664d5fd",
    "score-text/1": "ca1f88aec6ed125f30654c725e36335da5cb7ec02ed2f2f000b2ad44601c317a",
    "umbrela/1": "77f3e17d4e607bec7ac58f7e18e4b10d501a015af764de6626e808407ce3c458",
    "query-likelihood/1": "5b892464c504bab5e6ef749a6eab90615e17d3eb5de72814c6c480a59901a54f",
    "qwen3-reranker/1": "14ebc4e541d87be6f61a24da68686d8233927a35cca2de89fa0826007beacb04",
    "bge-reranker-v2-gemma/1": "4414c772bb00abaf47dcdfda367cca7e495992c413112c681245e591c903db2a",
    "mxbai-rerank-v2/1": "c1bb259bbeff06bb5f4498cf6478e0140895aa5c08183da07bcfd080660d1f28",
    "mono-t5/1": "02796753c608ab09f21c0e11b30c4c49fc1ecd2a79e2c0884bbcdf8b63eef4cd",
    "pairwise/1": "50a596c7fad06192475ac16b46e04438853847a9f56c43544d1b1129c0ff7bdf",
    "pairwise-logprobs/1": "43c3aba48c1de7e0847e99c6be959285dff334d2641655cbf08c4481c05e31b1",
    "duo-t5/1": "2a88e3c9a5fd46829d7517cdd4d0f5afbca225f8a6d427dd438c5fd62083a9f4",
    "setwise/1": "7dcf87f631e89e801a9fac056692b04cf7845cda09816671e27b4e5a621b27cf",
    "setwise-logprobs/1": "e06fedd02d7af016b918e2b0b3a1f52487e521921a2b9fa5d5df98f004b64907",
}


@pytest.mark.parametrize("prompt_id", ids())
def test_the_bytes_of_a_version_never_change(prompt_id: str) -> None:
    prompt = load(prompt_id)
    assert prompt.id == prompt_id
    assert prompt.digest == GOLDEN[prompt_id]


def test_rank_gpt_word_for_word() -> None:
    turns = load("rank-gpt").render(Sheet("why", ("one", "two")))
    assert turns == (
        Turn(
            "system",
            "You are RankGPT, an intelligent assistant that can rank passages based on their relevancy to the query.",
        ),
        Turn(
            "user",
            "I will provide you with 2 passages, each indicated by number identifier []. \n"
            "Rank the passages based on their relevance to query: why.",
        ),
        Turn("assistant", "Okay, please provide the passages."),
        Turn("user", "[1] one"),
        Turn("assistant", "Received passage [1]."),
        Turn("user", "[2] two"),
        Turn("assistant", "Received passage [2]."),
        Turn(
            "user",
            "Search Query: why. \nRank the 2 passages above based on their relevance to the search query. The passages "
            "should be listed in descending order using identifiers. The most relevant passages should be listed "
            "first. The output format should be [] > [], e.g., [1] > [2]. Only response the ranking results, do not "
            "say any word or explain.",
        ),
    )


def test_rank_zephyr_word_for_word() -> None:
    _, user = load("rank-zephyr").render(Sheet("why", ("one", "two")))
    assert user.content == (
        "I will provide you with 2 passages, each indicated by a numerical identifier []. Rank the passages based on "
        "their relevance to the search query: why.\n\n[1] one\n[2] two\nSearch Query: why.\nRank the 2 passages above "
        "based on their relevance to the search query. All the passages should be included and listed using "
        "identifiers, in descending order of relevance. The output format should be [] > [], e.g., [2] > [1], Only "
        "respond with the ranking results, do not say any word or explain."
    )
    _, later = load("rank-zephyr/2").render(Sheet("why", ("one", "two")))
    assert "Answer concisely and directly and only respond with" in later.content


def test_first_begins_the_answer_and_reads_letters() -> None:
    first = load("first")
    *_, user, prefill = first.render(Sheet("why", ("one", "two", "three")))
    assert "[B] two\n" in user.content
    assert "alphabetical identifier []" in user.content
    assert "e.g., [B] > [A]," in user.content
    assert prefill == Turn("assistant", "[")
    assert first.labels(3) == ("A", "B", "C")
    assert first.max_output_tokens(20) == 1
    assert first.weigh([-3.0, -1.0, -3.0], 3) == (1, 0, 2)


def test_qwen3_reranker_word_for_word() -> None:
    assert load("qwen3-reranker").render(Sheet("why", ("one",))) == (
        Turn(
            "system",
            "Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note "
            'that the answer can only be "yes" or "no".',
        ),
        Turn(
            "user",
            "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
            "<Query>: why\n<Document>: one",
        ),
        Turn("assistant", "<think>\n\n</think>\n\n"),
    )
    asked = load("qwen3-reranker").render(Sheet("why", ("one",), "law only"))[1]
    assert asked.content.startswith("<Instruct>: law only\n")


def test_t5_and_gemma_word_for_word() -> None:
    assert load("mono-t5").render(Sheet("why", ("one",)))[0].content == "Query: why Document: one Relevant:"
    assert load("duo-t5").render(Sheet("why", ("one", "two")))[0].content == (
        "Query: why Document0: one Document1: two Relevant:"
    )
    assert load("bge-reranker-v2-gemma").render(Sheet("why", ("one",)))[0].content == (
        "A: why\nB: one\nGiven a query A and a passage B, determine whether the passage contains an answer to the "
        "query by providing a prediction of either 'Yes' or 'No'."
    )


def test_mxbai_rerank_v2_word_for_word() -> None:
    system, user = load("mxbai-rerank-v2").render(Sheet("why", ("one",), "law only"))
    assert system == Turn("system", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.")
    assert user == Turn(
        "user",
        "instruction: law only\nquery: why\ndocument: one\n"
        "You are a search relevance expert who evaluates how well documents match search queries. For each "
        "query-document pair, carefully analyze the semantic relationship between them, then provide your binary "
        "relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:",
    )
    assert load("mxbai-rerank-v2").render(Sheet("why", ("one",)))[1].content.startswith("query: why\n")


def test_scores_come_from_the_labels() -> None:
    even = [-1.0, -1.0]
    assert load("yes-no").weigh(even, 1) == pytest.approx(0.5)
    assert load("mono-t5").weigh([-0.1, -3.0], 1) > 0.9
    assert load("pairwise-logprobs").weigh([-0.1, -3.0], 2) > 0.9
    assert load("setwise-logprobs").weigh([-3.0, -0.1, -2.0], 3) == 1
    assert load("graded").weigh([-9.0, -9.0, -9.0, -9.0, 0.0], 1) == pytest.approx(4.0, abs=0.01)
    assert load("graded-umbrela").weigh([-1.0] * 4, 1) == pytest.approx(1.5)
    assert load("bge-reranker-v2-gemma").weigh([0.0], 1) == 1.0


def test_what_a_prompt_serves_and_needs_is_declared() -> None:
    assert {load(name).kind for name in names()} == {Grade, Prefer, Pick, Order}
    assert load("qwen3-reranker").needs == {Need.LABELS, Need.PREFILL}
    assert load("query-likelihood").needs == {Need.CONTINUATION}
    for kind, name in USUAL.items():
        usual = load(name)
        assert usual.kind is kind
        assert usual.reads is Reads.TEXT
        assert not usual.needs


def test_our_own_prompts_have_a_place_for_an_instruction_and_the_query_comes_first() -> None:
    for name in ("listwise-json", "choose-best", "yes-no", "graded", "score-text", "setwise-logprobs"):
        prompt = load(name)
        documents = ("alpha", "beta") if prompt.kind is not Grade else ("alpha",)
        user = prompt.render(Sheet("why is that", documents, "law only"))[-1].content
        assert prompt.takes_instruction
        assert user.index("why is that") < user.index("law only") < user.index("alpha")


def test_a_top_is_asked_for() -> None:
    prompt = load("choose-best")
    sheet = Sheet("why", ("a", "b", "c", "d"), top=2)
    assert "Choose the 2 documents of the 4 above" in prompt.render(sheet)[-1].content
    form = prompt.constraint(sheet)
    assert form is not None
    assert form.schema is not None
    assert form.schema["properties"]["best"]["maxItems"] == 2
    assert prompt.read('{"best": [4, 2]}', sheet).answer == (3, 1)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownPrompt, match=r"did you mean 'rank-vicuna'.*known: bge-reranker-v2-gemma, choose-best"):
        load("rank-vicunna")
    with pytest.raises(UnknownPrompt, match="rank-zephyr/2"):
        load("rank-zephyr/3")
