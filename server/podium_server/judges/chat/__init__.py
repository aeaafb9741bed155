"""The judge that asks a chat model (`judge`): how it asks and reads (`ladder`), and what it shows (`documents`)."""
