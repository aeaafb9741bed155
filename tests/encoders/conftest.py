from collections.abc import Iterator

import pytest

from podium_server.backends.encoders.openvino import OpenVinoEncoder
from podium_server.backends.openvino.sources import shipped_models


@pytest.fixture(scope="session")
def minilm() -> Iterator[OpenVinoEncoder]:
    assert "all-minilm-l6-v2" in shipped_models()
    encoder = OpenVinoEncoder("all-minilm-l6-v2", name="minilm")
    yield encoder
    encoder.close()
