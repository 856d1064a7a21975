"""One run at a time on a thread: the graph that takes its lease, turns asked again, answers taken once."""
