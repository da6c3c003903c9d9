"""Whether two answers are equal: ``answers.compare`` from the top, through words and structure to exact values."""
