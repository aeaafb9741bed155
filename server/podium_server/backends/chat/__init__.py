"""Chat models: what every chat backend keeps to, and one module for each way to reach one."""
