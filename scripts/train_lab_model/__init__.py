"""Train the lab's own language model: `python -m scripts.train_lab_model --help`."""
