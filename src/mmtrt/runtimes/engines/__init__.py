"""What runs an engine: the plan, its execution contexts, memory and graphs; `mmtrt.runtimes.tensorrt` is the door."""
