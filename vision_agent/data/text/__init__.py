"""Sentences for training: phrases, questions, requests and dialogues."""
