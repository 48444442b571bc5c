"""Benchmark `colours`: two questions."""

from actframe import BenchmarkAdapter, Question


class Colours(BenchmarkAdapter):
    name = "colours"

    def questions(self):
        yield Question(id="colours/sky", text="What colour is a clear sky at noon?", answer="blue", subject="sky")
        yield Question(id="colours/grass", text="What colour is fresh grass?", answer="green", subject="ground")

    def extract_answer(self, response, question):
        words = response.lower().replace(".", " ").replace(",", " ").split()
        return next((word for word in words if word in ("blue", "green", "red")), None)
