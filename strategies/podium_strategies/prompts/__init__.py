"""Prompts: one module each, with a template, its rendering, the reading of its replies, and an id. Pure text."""
