"""Adapters in training: on several processes, and in the Trainer's checkpoints."""
