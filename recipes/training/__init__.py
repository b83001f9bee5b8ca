"""Training of every task: devices, schedules, checkpoints, logs and run folders."""
