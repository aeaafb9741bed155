"""What the modules that run OpenVINO share: where a model comes from, its graph, its card, its tokens, how it runs."""
