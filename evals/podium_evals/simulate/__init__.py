"""A judge that behaves like a language model and knows the judgments: simulations that need no GPU and no money.

| module       | what                                                                                      |
| ------------ | ----------------------------------------------------------------------------------------- |
| `noise`      | how such a judge errs, and the levels low, medium and high                                |
| `fit`        | where those numbers come from: a likelihood, fitted                                       |
| `fitting`    | the recorded rankers, and the simulated judge over the same windows                       |
| `knowledge`  | which query and which documents stand in a prompt, and what the judgments say             |
| `recognise`  | which prompt was asked: Podium's, and those of rank_llm, llm-rankers and rerankers        |
| `replies`    | what a model would say, well-formed or not                                                |
| `judge`      | all of that together: a conversation in, a reply out                                      |
| `endpoint`   | tokens, prefix cache and latency, on a simulated clock                                    |
| `server`     | the judge as an OpenAI-compatible endpoint                                                |
| `chat`       | the judge as a backend in this process, for ten thousand calls a query                    |
| `clock`      | runs a strategy against it in simulated time                                              |
| `strategies` | what the table compares, and the papers' figures                                          |
| `table`      | every strategy at three levels                                                            |
| `findings`   | what follows: the front, the saving, the papers beside it, the presets                    |
"""
