// COCO's compressed run lengths: columns from top to bottom, pixels outside first.

/** The run lengths as numbers. */
export function runLengths(text) {
  const counts = [];
  let place = 0;
  while (place < text.length) {
    let value = 0, shift = 0, more = true, code = 0;
    while (more) {
      code = text.charCodeAt(place++) - 48;
      value += (code & 31) * 2 ** shift;
      more = (code & 32) !== 0;
      shift += 5;
    }
    if (code & 16) value -= 2 ** shift; // a negative difference
    counts.push(counts.length > 2 ? value + counts[counts.length - 2] : value);
  }
  return counts;
}

/** The pixels of a mask `{size: [height, width], counts}`, row by row, 1 inside. */
export function pixelsOf({ size: [height, width], counts }) {
  const pixels = new Uint8Array(height * width);
  let at = 0;
  runLengths(counts).forEach((length, index) => {
    const end = at + length;
    if (index % 2) for (; at < end; at++) pixels[(at % height) * width + Math.floor(at / height)] = 1;
    at = end;
  });
  return pixels;
}

/** How many pixels are inside. */
export const areaOf = (mask) => runLengths(mask.counts).reduce((sum, length, index) => sum + (index % 2 ? length : 0), 0);

/** The pixels of a mask in an image whose longer side is at most `side`: `{width, height, inside}`. */
export function sampled(mask, side) {
  const [height, width] = mask.size;
  const inside = pixelsOf(mask);
  const scale = Math.min(1, side / Math.max(width, height));
  if (scale === 1) return { width, height, inside };
  const small = { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
  small.inside = new Uint8Array(small.width * small.height);
  for (let y = 0, index = 0; y < small.height; y++) {
    const row = Math.floor(((y + 0.5) * height) / small.height) * width;
    for (let x = 0; x < small.width; x++) small.inside[index++] = inside[row + Math.floor(((x + 0.5) * width) / small.width)];
  }
  return small;
}

/** The tint of a sampled mask: its color, with a firm rim. */
export function tinted({ width, height, inside }, color, strong) {
  const [red, green, blue] = [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16));
  const rim = Math.max(1, Math.round(Math.sqrt(width * height) / 320));
  const made = new ImageData(width, height);
  for (let y = 0, index = 0; y < height; y++) {
    for (let x = 0; x < width; x++, index++) {
      if (!inside[index]) continue;
      const edge = x < rim || y < rim || x >= width - rim || y >= height - rim
        || !inside[index - rim] || !inside[index + rim] || !inside[index - rim * width] || !inside[index + rim * width];
      made.data.set([red, green, blue, edge ? 255 : strong ? 135 : 90], index * 4);
    }
  }
  return made;
}
