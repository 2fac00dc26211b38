"""The best pairing of rows with columns: the Hungarian method, with shortest augmenting paths.

After Crouse, "On implementing 2D rectangular assignment algorithms" (2016); O(rows^2 * columns).
"""

import numpy as np
import numpy.typing as npt


def assign(gain_RC: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return the pairs (row, column) with the greatest sum of gains, in the order of the rows.

    Every row has a column and every column a row, as far as there are enough: leave pairs of no gain out afterwards.

    Args:
        gain_RC: finite, (R, C).
    """
    if gain_RC.shape[0] > gain_RC.shape[1]:
        return sorted((row, column) for column, row in assign(gain_RC.T))
    rows, columns = gain_RC.shape
    cost_RC = gain_RC.max(initial=0.0) - gain_RC
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    row_of = np.full(columns, -1)
    for start in range(rows):
        least, before = np.full(columns, np.inf), np.full(columns, -1)
        settled = np.zeros(columns, dtype=bool)
        reached_rows = [start]
        row, so_far = start, 0.0
        while True:  # the shortest path from the new row to a free column
            path = so_far + cost_RC[row] - row_price[row] - column_price
            shorter = ~settled & (path < least)
            least[shorter], before[shorter] = path[shorter], row
            column = int(np.where(settled, np.inf, least).argmin())
            so_far = float(least[column])
            settled[column] = True
            if row_of[column] < 0:
                break
            row = int(row_of[column])
            reached_rows.append(row)
        row_price[start] += so_far
        column_of = {int(row_of[each]): int(each) for each in np.flatnonzero(row_of >= 0)}
        for each in reached_rows[1:]:
            row_price[each] += so_far - least[column_of[each]]
        column_price[settled] += least[settled] - so_far
        while True:  # each row on the path moves on by one column
            row = int(before[column])
            row_of[column] = row
            if row == start:
                break
            column = column_of[row]
    return sorted((int(row_of[column]), int(column)) for column in np.flatnonzero(row_of >= 0))
