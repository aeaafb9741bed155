"""The composition root: the one room that knows everyone, and puts a configuration's parts together.

Nothing heavy is loaded before it is needed: composing a server opens no model and no connection, so that an estimate or
a catalogue costs nothing.
"""

from podium_server.compose.models import ModelCard, Models
from podium_server.compose.podium import Podium, build_pipelines

__all__ = ["ModelCard", "Models", "Podium", "build_pipelines"]
