"""Architecture search: sizes that fit a parameter budget, judged by their integers."""
