"""Reads tables of captions, and decides what their columns hold."""
