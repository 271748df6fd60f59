"""Spoken-SQuAD."""
