"""Token vectors of several passages, as the store keeps them: 8 bits a number, and a scale for each token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from podium_server.recall.encoding import Codes, Floats


class TokenVectors(Sequence[Floats]):
    """Token vectors of several passages, as they are stored and as floats.

    Args:
        codes: (tokens of all, width of a token's vector) int8.
        scales: (tokens of all,) float32; codes × scales are the vectors.
        offsets: (passages + 1,) where each passage's tokens begin.

    """

    def __init__(self, codes: Codes, scales: Floats, offsets: NDArray[np.int64]) -> None:
        self.codes = codes
        self.scales = scales
        self.offsets = offsets
        self._vectors: Floats | None = None

    @classmethod
    def read(cls, stored: Sequence[tuple[bytes, bytes]], dim: int) -> TokenVectors:
        """Return the vectors of passages whose scales and codes were read from the store.

        Args:
            stored: of each passage, in order; empty where it has none.
            dim: the width where there is no token at all.

        """
        offsets = np.zeros(len(stored) + 1, np.int64)
        np.cumsum([len(scales) // 4 for scales, _ in stored], out=offsets[1:])
        joined = np.frombuffer(b"".join(codes for _, codes in stored), np.int8)
        # As wide as they were kept: a projection for late interaction is narrower than the vector that is searched.
        codes = joined.reshape(-1, len(joined) // int(offsets[-1]) if offsets[-1] else dim)
        scales = np.frombuffer(b"".join(scales for scales, _ in stored), "<f4")
        return cls(codes, scales.astype(np.float32, copy=False), offsets)

    @property
    def vectors(self) -> Floats:
        """(tokens of all, dim) float32."""
        if self._vectors is None:
            vectors = self.codes.astype(np.float32)
            vectors *= self.scales[:, None]
            self._vectors = vectors
        return self._vectors

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, place: int) -> Floats: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Floats]: ...

    def __getitem__(self, place: int | slice) -> Floats | Sequence[Floats]:
        """Return (tokens, dim) of one passage; (0, dim) where it has none or is gone."""
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        return self.vectors[self.offsets[place] : self.offsets[place + 1]]
