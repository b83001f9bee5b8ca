// From a file to a model's pixels, as keras_cbvit/images.py does with Pillow.

// Four bytes a pixel, twice while it is decoded: 320 MB, which phones still have.
export const MAX_PIXELS = 40e6;

/** A file as RGB over white, upright: {width, height, data} with 3 bytes a pixel. */
export async function decode(file) {
  const refuse = (why, what) => { throw new Error(`${file.name} ${why}; ${what}.`); };
  const url = URL.createObjectURL(file);
  let bitmap;
  try {
    const image = new Image();
    const known = await new Promise((resolve) => {
      image.onload = () => resolve(true);
      image.onerror = () => resolve(false);
      image.src = url;
    });
    if (!known && !file.type.startsWith("image/"))
      refuse("is not an image", "choose a JPEG, PNG or WebP file");
    if (!known)
      refuse("cannot be decoded by this browser", "save it as JPEG, PNG or WebP");
    // The header alone is read so far.
    const pixels = image.naturalWidth * image.naturalHeight;
    if (pixels > MAX_PIXELS)
      refuse(`has ${(pixels / 1e6).toFixed(1)} million pixels, too many to decode`,
        `resize it to less than ${MAX_PIXELS / 1e6} million pixels`);
    try {
      bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
    } catch {
      refuse("is damaged", "save it again as JPEG, PNG or WebP");
    }
  } finally {
    URL.revokeObjectURL(url);
  }
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height)
    .getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8ClampedArray(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    data[to++] = rgba[from];
    data[to++] = rgba[from + 1];
    data[to++] = rgba[from + 2];
  }
  return { width, height, data };
}

/** Pillow's ImageOps.fit, bicubic: crops the center and resizes with antialiasing. */
export function fit(image, [height, width], cropFraction) {
  if (image.width === width && image.height === height && cropFraction === 1)
    return image;
  const bleed = (1 - cropFraction) / 2;
  const edge = [bleed * image.width, bleed * image.height];
  const live = [image.width - edge[0] * 2, image.height - edge[1] * 2];
  const ratio = width / height;
  const wide = live[0] / live[1] >= ratio;
  const crop = wide ? [ratio * live[1], live[1]] : [live[0], live[0] / ratio];
  const [left, top] = [0, 1].map((k) => edge[k] + (live[k] - crop[k]) * 0.5);
  const rows = (of) => resizeRows(of, left, left + crop[0], width);
  const columns = (of) => transpose(resizeRows(transpose(of), top, top + crop[1], height));
  // The order matters, since values are rounded in between. Measured with Pillow 13.
  const shrink = image.height - height;
  return shrink > 0 && shrink > 2 * (image.width - width)
    ? rows(columns(image)) : columns(rows(image));
}

function transpose({ width, height, data }) {
  const out = new Uint8ClampedArray(data.length);
  for (let y = 0, at = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let channel = 0; channel < 3; channel++)
        out[(x * height + y) * 3 + channel] = data[at++];
  return { width: height, height: width, data: out };
}

function resizeRows({ width, height, data }, start, end, size) {
  const out = new Uint8ClampedArray(size * height * 3);
  coefficients(width, start, end, size).forEach(({ first, weights }, x) => {
    for (let y = 0; y < height; y++)
      for (let channel = 0; channel < 3; channel++) {
        let sum = HALF;
        for (let k = 0, at = (y * width + first) * 3 + channel;
          k < weights.length; k++, at += 3)
          sum += data[at] * weights[k];
        out[(y * size + x) * 3 + channel] = Math.floor(sum / ONE);
      }
  });
  return { width: size, height, data: out };
}

// Pillow's fixed-point numbers.
const ONE = 2 ** 22;
const HALF = 2 ** 21;

function coefficients(inputSize, start, end, size) {
  [start, end] = [Math.fround(start), Math.fround(end)];
  const scale = Math.fround(end - start) / size;
  const stretch = Math.max(scale, 1);
  const support = 2 * stretch;
  return Array.from({ length: size }, (_, x) => {
    const center = start + (x + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(inputSize, Math.trunc(center + support + 0.5));
    const weights = [];
    let sum = 0;
    for (let at = first; at < last; at++) {
      const weight = bicubic((at - center + 0.5) * (1 / stretch));
      weights.push(weight);
      sum += weight;
    }
    return {
      first,
      weights: weights.map((weight) => {
        const fixed = (weight / sum) * ONE;
        return Math.trunc(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
      }),
    };
  });
}

function bicubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}
