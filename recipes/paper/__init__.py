"""The training runs, tables and figures of the paper."""
