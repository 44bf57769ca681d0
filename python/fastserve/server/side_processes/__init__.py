"""Work off the event loop, in child processes that may be killed: long bodies, chat templates."""
