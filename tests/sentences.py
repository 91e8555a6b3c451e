"""Sentences with phrases that come again, in several scripts: text to learn supertokens from."""

SENTENCES = [
    "One of the things that we know is that the end of the river is not the end of the world.",
    "At the end of the day, the miller walked down to the river, and the river walked with him.",
    "In the middle of the night the wheel of the mill stood still. The water went on.",
    "He said that it was the end of the year 2024. She said that it was 1999 or 2000!",
    "def walk(self, river):\n    return self.river.walk(river)\n\n    self.river = self.end_of(the, world)\n",
    "Am Ende des Tages ging der Müller an den Fluss. Am Ende des Jahres auch: das ist das Ende des Liedes.",
    "В конце дня мельник пошёл к реке, и в конце года тоже. End of the реки.",
    "一日の終わりに川へ行った。一年の終わりにも川へ行った。",
    "दिन के अंत में नदी के पास। साल के अंत में नदी के पास।",
]
