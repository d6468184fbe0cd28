"""The sections of a report. Each file measures one of them with the functions of evaluate/."""
