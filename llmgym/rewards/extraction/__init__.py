"""From a response to the answer it settles on: ``rules`` from the top, the others one idea each beneath it."""
