"""What a network's outputs mean: one file for each task; plug-ins add more by entry points."""

from edgetl.tasks.base import TASKS, Evaluation, Output, Outputs, Prediction, Result, Score, Task

__all__ = ["TASKS", "Evaluation", "Output", "Outputs", "Prediction", "Result", "Score", "Task"]
