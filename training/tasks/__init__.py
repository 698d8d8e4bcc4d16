"""What the bundled models are worth at every task, one file for each kind of task; see evaluate_tasks.py."""
