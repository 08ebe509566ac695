"""The application but for os-ken: tasks of one event loop."""
