"""What training adds to a task: networks, losses, probes; a file for each, as in edgetl/tasks."""
