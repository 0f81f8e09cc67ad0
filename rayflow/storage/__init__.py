"""Floor 3: stores keep records; they know nothing of eligibility, retries or workflows."""
