"""Output for people: tables, pages, progress, and the Optuna dashboard."""
