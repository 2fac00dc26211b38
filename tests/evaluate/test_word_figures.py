"""How well words were read: recall, precision and character errors."""

from vision_agent.evaluate.words import PlacedText, word_figures


def test_word_figures_count_words_once_and_characters_by_place() -> None:
    truth = [PlacedText("TOTAL AMOUNT", (0, 0, 100, 10)), PlacedText("9.00", (200, 0, 240, 10))]
    read = [PlacedText("9.00", (200, 0, 240, 10)), PlacedText("TotalAmount", (0, 0, 100, 10))]
    figures = word_figures([(read, truth)], ignore_case=True)
    assert (figures.recall, figures.precision, figures.words) == (1 / 3, 1 / 2, 3)
    assert figures.character_errors == 1 / 16
    assert word_figures([([], truth)]).character_errors == 1.0
