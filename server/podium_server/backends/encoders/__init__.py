"""Encoders: texts in, vectors out; the contract, and one module for each way to run one."""
