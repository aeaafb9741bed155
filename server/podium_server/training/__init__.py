"""Distillation: small students from labels, judgments and teachers. torch is imported in the modules named for it."""
