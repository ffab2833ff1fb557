"""What an evaluation is asked, and what it gives: settings, results and their table."""
