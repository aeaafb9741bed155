"""The recorded rankers: which prompt each was asked with, and how its flat conversation is made of messages."""

from collections.abc import Iterable

from podium_strategies.prompts.prompt import Turn

RECORDINGS = {
    "rank_vicuna_7b": ("rank-vicuna", 0, 0.6682),
    "rank_vicuna_7b_early": ("rank-vicuna-early", 11, 0.6665),
    "vicuna_7b_untrained": ("rank-gpt-vicuna", 18, 0.5058),
}
"""File, prompt, malformed replies, nDCG@10."""


def flatten_vicuna(turns: Iterable[Turn]) -> str:
    """Return a conversation as FastChat's Vicuna template writes it, up to the assistant's turn (and not its name)."""
    flat = ""
    for role, content in turns:
        if role == "system":
            flat += f"{content} "
        elif role == "user":
            flat += f"USER: {content} "
        else:
            flat += f"ASSISTANT: {content}</s>"
    return flat
