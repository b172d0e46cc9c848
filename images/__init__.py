"""The images of both programs: how they are built, and what they are made of."""
