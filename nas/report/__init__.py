"""What a person sees: tables, pages, progress, and the Optuna dashboard."""
