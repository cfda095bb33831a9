'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const hit = data.kinds.length, missed = -1, step = 120;
const at = id => document.getElementById(id);

function unpacked(text, kind) {
  const bytes = Uint8Array.from(atob(text), one => one.charCodeAt(0));
  return new kind(bytes.buffer);
}

data.objectSizes = unpacked(data.objectSizes, Uint16Array);
data.goodImages = unpacked(data.goodImages, Uint16Array);
data.objectLabels = unpacked(data.objectLabels, Uint16Array);
data.objectImages = unpacked(data.objectImages, Uint32Array);
for (const run of data.runs) {
  run.foundAt = unpacked(run.foundAt, Float32Array);
  run.scores = unpacked(run.scores, Float32Array);
  for (const name of ['labels', 'kinds', 'good', 'sizes']) run[name] = unpacked(run[name], Uint16Array);
  run.images = unpacked(run.images, Uint32Array);
  run.others = run.others.map(text => unpacked(text, Float32Array));
}

function element(name, text, attributes = {}, space) {
  const one = space ? document.createElementNS(space, name) : document.createElement(name);
  if (text !== undefined && text !== null) one.textContent = text;
  for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
  return one;
}

const drawn = (name, attributes, text) => element(name, text, attributes, 'http://www.w3.org/2000/svg');

/** The figures of a run at a confidence, as PrecisionRecallMetric defines them. */
function figures(run, confidence) {
  const tp = data.classes.map(() => 0), found = data.classes.map(() => 0), withAlarm = new Set();
  let count = 0, wrong = 0, alarms = 0;
  for (; count < run.scores.length && run.scores[count] >= confidence; count++) {
    const right = run.kinds[count] === hit;
    found[run.labels[count]]++;
    if (right) tp[run.labels[count]]++; else wrong++;
    if (run.good[count]) { alarms++; withAlarm.add(run.images[count]); }
  }
  const classes = data.classes.map((name, i) => ({
    name, objects: data.objects[i], found: found[i],
    precision: tp[i] / Math.max(found[i], 1), recall: tp[i] / Math.max(data.objects[i], 1),
    f1: 2 * tp[i] / Math.max(found[i] + data.objects[i], 1),
  }));
  const present = classes.filter(one => one.objects);
  const mean = key => present.length ? present.reduce((sum, one) => sum + one[key], 0) / present.length : 0;
  const hits = tp.reduce((a, b) => a + b, 0), objects = data.objects.reduce((a, b) => a + b, 0);
  return {
    classes, count, precision: mean('precision'), recall: mean('recall'), f1: mean('f1'), perImage: wrong / data.images,
    alarms: data.good ? 100 * alarms / data.good : NaN, withAlarm: data.good ? withAlarm.size / data.good : NaN,
    pooled: [objects ? hits / objects : 0, count ? hits / count : 0],
  };
}

const shown = (value, digits) => Number.isFinite(value) ? value.toFixed(digits) : '–';

function table(id, head, rows) {
  const row = (cells, name) => {
    const line = element('tr');
    for (const cell of cells) {
      const one = element(name, null, cells.length < head.length ? {colspan: head.length} : {});
      one.append(cell);
      line.append(one);
    }
    return line;
  };
  at(id).replaceChildren(row(head, 'th'), ...rows.map(cells => row(cells, 'td')));
}

function label(i) {
  const one = element('span');
  one.append(element('span', '', {class: 'key', style: `background: ${colour(i)}`}), data.runs[i].name);
  return one;
}

const colour = i => data.colours[i % data.colours.length];

function drawFigures(confidence) {
  const all = data.runs.map(run => figures(run, confidence));
  const rows = [
    ['precision', one => one.count ? shown(one.precision, 3) : '–'], ['recall', one => shown(one.recall, 3)],
    ['F1', one => shown(one.f1, 3)], ['false positives per image', one => shown(one.perImage, 2)],
    ...(data.good ? [['false alarms per 100 good parts', one => shown(one.alarms, 1)],
      ['good parts with an alarm', one => shown(100 * one.withAlarm, 1) + ' %']] : []),
    ['objects found, all classes together', one => shown(100 * one.pooled[0], 1) + ' %'],
  ];
  table('figures', ['', ...data.runs.map((run, i) => label(i))], rows.map(([name, text]) => [name, ...all.map(text)]));
  const heads = (first, names) => [first, 'objects', ...data.runs.flatMap(
    run => names.map(name => data.runs.length > 1 ? `${name}, ${run.name}` : name))];
  table('classes', heads('class', ['precision', 'recall', 'F1']),
    data.classes.map((name, i) => [name, String(data.objects[i]), ...all.flatMap(
      one => ['precision', 'recall', 'f1'].map(key => shown(one.classes[i][key], 3)))]));
  table('sizes', heads('size', ['recall', 'false positives']), data.sizes.map((name, size) => {
    const objects = data.objectSizes.filter(one => one === size).length;
    return [name, String(objects), ...data.runs.flatMap((run, i) => {
      const hits = run.foundAt.filter((score, object) => score >= confidence && data.objectSizes[object] === size).length;
      const wrong = run.sizes.subarray(0, all[i].count).filter((one, k) => one === size && run.kinds[k] !== hit).length;
      return [objects ? shown(hits / objects, 3) : '–', String(wrong)];
    })];
  }));
  drawCurve(all.map(one => one.count ? one.pooled : null));
}

/** Dots on the plot, which has a line for each run. */
function drawCurve(points) {
  const {left, right, top, bottom} = data.axes, plot = document.querySelector('#curve svg');
  for (const one of plot.querySelectorAll('circle')) one.remove();
  points.forEach((point, i) => point && plot.append(drawn('circle', {
    cx: left + point[0] * (right - left), cy: bottom + point[1] * (top - bottom), r: 4.5, fill: colour(i)})));
}

const names = {background: 'on background', place: 'wrong place', class: 'wrong class', duplicate: 'second box'};
const kinds = new Map([['all', 'all false positives'], ...data.kinds.map(kind => [kind, names[kind]]),
  ...(data.runs.length > 1 ? [['suspects', 'possible missing labels']] : []), ['missed', 'missed objects']]);
const meanings = {
  all: 'A false positive (red) is any detection that is not right. ' + (data.good ? 'On a good part it is a false alarm. ' : '')
    + 'Dashed green boxes are the marked objects.',
  background: 'A false positive that overlaps no object with an IoU of 0.1 or more.',
  place: `The class is right, but the IoU with the object is below ${data.iou}.`,
  class: `A false positive that overlaps an object of another class, with an IoU of 0.1 or more. (The confusion counts from `
    + `${data.iou} on.)`,
  duplicate: 'A second box on an object that is already found.',
  missed: 'An object (yellow) without a right detection at this confidence. Dashed red is the surest detection that overlaps it, '
    + 'dashed green are other objects. "Never found": not even with a low score.',
  suspects: 'A false positive on background that every run has, whatever "Show" says. It may be an object that nobody has '
    + 'marked, or something that every run mistakes.',
};

/** What the select "show" offers: [value, text, run, which of its mistakes]. The last takes whether each run has it. What is
 *  gone and what is left are mistakes of the first run, and what is new are mistakes of the other. */
function views() {
  const first = `"${data.runs[0].name}"`;
  const found = data.runs.map((run, i) => [`of ${i}`, data.runs.length > 1 ? `all of "${run.name}"` : 'all', i, () => true]);
  data.runs.slice(1).forEach((run, k) => {
    const other = k + 1, name = `"${run.name}"`;
    found.push([`gone ${other}`, `gone: in ${first}, not in ${name}`, 0, has => !has[other]],
      [`new ${other}`, `new: in ${name}, not in ${first}`, other, has => !has[0]],
      [`both ${other}`, `still there: in ${first} and ${name}`, 0, has => has[other]]);
  });
  if (data.runs.length > 2) found.push(['every', 'in every run', 0, has => has.every(one => one)]);
  return found;
}

/** All mistakes of a run at a confidence: kind, label, image, and whether each run has it. A missed object has the scores with
 *  which the runs find it. */
function* mistakes(run, confidence) {
  const one = data.runs[run];
  for (let k = 0; k < one.scores.length && one.scores[k] >= confidence; k++) {
    if (one.kinds[k] !== hit) {
      yield [one.kinds[k], one.labels[k], one.images[k], one.others.map((scores, i) => i === run || scores[k] >= confidence)];
    }
  }
  for (let k = 0; k < one.foundAt.length; k++) {
    if (one.foundAt[k] < confidence) {
      yield [missed, data.objectLabels[k], data.objectImages[k], data.runs.map(other => other.foundAt[k] < confidence)];
    }
  }
}

/** Whether the filters show a mistake, as ``mistakes`` gives it. */
function chosen([kind, label, image, has], wanted, shows) {
  if (wanted === 'missed' ? kind !== missed : kind === missed) return false;
  if (wanted === 'suspects' ? kind !== 0 || !has.every(one => one) : !shows(has)) return false;
  if (data.kinds.includes(wanted) && data.kinds[kind] !== wanted) return false;
  if (at('class').value !== 'all' && label !== Number(at('class').value)) return false;
  return at('images').value === 'all' || data.goodImages[image] === Number(at('images').value === 'good');
}

let limit = step;

function drawGallery() {
  const confidence = Number(at('confidence').value), kind = at('kind').value;
  at('show').disabled = kind === 'suspects';  // they are of every run
  const [first, ...others] = views(), view = [first, ...others].find(([value]) => value === at('show').value);
  const [, , run, shows] = kind === 'suspects' ? first : view;
  const counts = new Map([...at('kind').options].map(one => [one.value, 0]));
  const count = ([, , of, which], names) => {
    for (const one of mistakes(of, confidence)) {
      for (const name of names) if (chosen(one, name, which)) counts.set(name, counts.get(name) + 1);
    }
  };
  count(view, [...counts.keys()].filter(name => name !== 'suspects'));
  if (counts.has('suspects')) count(first, ['suspects']);
  for (const one of at('kind').options) one.textContent = `${kinds.get(one.value)} (${counts.get(one.value)})`;
  const entries = data.entries.filter(entry => {
    const has = entry[7].map(score => entry[1] === missed ? score < confidence : score >= confidence);
    return entry[0] === run && has[run] && chosen([entry[1], entry[2], entry[4], has], kind, shows);
  });
  entries.sort((a, b) => kind === 'missed' ? a[3] - b[3] : b[3] - a[3]);
  const what = kind === 'missed' ? 'lowest' : 'highest', all = counts.get(kind);
  at('meaning').textContent = meanings[kind];
  at('count').textContent = `${all} at confidence ${confidence.toFixed(3)}, the ${what} score first.` + (entries.length < all
    ? ` The page has ${entries.length} of them, with the ${what} scores. To have more, make it again with a larger --most.` : '');
  at('gallery').replaceChildren(...entries.slice(0, limit).map(card));
  at('more').hidden = entries.length <= limit;
}

function card(entry) {
  const [run, kind, klass, score, image, picture, box, scores, near] = entry;
  const one = element('article', null, {class: 'entry'});
  const svg = drawn('svg', {viewBox: '0 0 100 100', role: 'img', 'aria-label': data.classes[klass]});
  if (picture >= 0) {
    const [x, y, width, height] = box.map(share => 100 * share);
    const stroke = kind === missed ? '#f2c230' : '#f0483e';
    svg.append(drawn('image', {href: 'data:image/jpeg;base64,' + data.pictures[picture], width: 100, height: 100,
      preserveAspectRatio: 'none'}));
    for (const [label, shares] of data.truth[picture]) {
      if (kind === missed && String(shares) === String(box)) continue;
      const [left, top, across, down] = shares.map(share => 100 * share);
      const object = drawn('rect', {x: left, y: top, width: across, height: down, fill: 'none', stroke: '#37b24d',
        'stroke-width': 1.2, 'stroke-dasharray': '4 2'});
      object.append(drawn('title', {}, data.classes[label]));
      svg.append(object);
    }
    svg.append(drawn('rect', {x, y, width, height, fill: 'none', stroke, 'stroke-width': 1.5}));
    if (kind === missed && near && !score) {
      const [left, top, across, down] = near[3].map(share => 100 * share);
      svg.append(drawn('rect', {x: left, y: top, width: across, height: down, fill: 'none', stroke: '#f0483e',
        'stroke-width': 1.2, 'stroke-dasharray': '4 2'}));
    }
  } else svg.append(drawn('text', {x: 50, y: 52, 'text-anchor': 'middle', fill: 'currentColor', 'font-size': 8}, 'no picture'));
  one.append(svg, element('p', data.classes[klass] + (kind === missed ? '' : ` ${score.toFixed(2)}`)));
  const what = kind === missed ? reason(entry) : names[data.kinds[kind]]
    + (data.kinds[kind] === 'class' ? `, marked as ${data.classes[near]}` : '');
  one.append(element('p', what, {class: 'none'}));
  if (data.runs.length > 1) {
    const each = element('p', null, {class: 'none', title: 'score in each run'});
    data.runs.forEach((other, i) => each.append(
      element('span', '', {class: 'key', style: `background: ${colour(i)}`}), `${scores[i] ? scores[i].toFixed(2) : '–'} `));
    one.append(each);
  }
  const file = element('p', null, {class: 'file'});
  file.append(element('a', data.names[image].split('/').pop(), {title: data.names[image], target: '_blank', href: data.links[image]}));
  one.append(file);
  return one;
}

/** Why an object is missed. */
function reason([, , , score, , , , , near]) {
  if (score) return `found only with a score of ${score.toFixed(2)}`;
  if (!near) return 'never found: no detection overlaps it';
  const one = `${data.classes[near[0]]} ${near[1].toFixed(2)}`;
  return near[4] ? `never found; only ${one} overlaps it, which finds another object`
    : `never found; ${one} overlaps it with an IoU of ${near[2].toFixed(2)}`;
}

/** A key figure, and below it the interval of its difference to the first run. */
function figure([, , text, difference]) {
  const [value, interval] = text.split(' ['), cell = element('span', value);
  if (interval) cell.append(element('span', `[${interval}`, {class: 'difference'}));
  if (difference) cell.append(element('span', `difference ${difference}`, {class: 'difference'}));
  return cell;
}

function options(id, list) {
  at(id).replaceChildren(...list.map(([value, text]) => element('option', text, {value})));
}

function start() {
  const good = data.good ? `; ${data.good} show no object: good parts` : '';
  at('about').textContent = `Tested on ${data.file} (${data.images} images${good}). A detection is right if it overlaps an `
    + `object of its class with an IoU of at least ${data.iou}.`;
  options('show', views());
  options('class', [['all', 'all'], ...data.classes.map((name, i) => [i, name])]);
  options('kind', [...kinds]);
  options('images', [['all', 'all'], ['good', 'without objects'], ['other', 'with objects']]);
  at('of').hidden = !data.good;
  const copied = ([, value, recall, perImage]) => {
    if (value === null) return 'not reached';
    const cell = element('span');
    const copy = element('button', value.toFixed(3), {type: 'button', title: String(value)});
    copy.addEventListener('click', () => {
      if (navigator.clipboard) navigator.clipboard.writeText(copy.title);
      at('confidence').value = value;
      draw();
    });
    cell.append(copy);
    const found = recall === null ? '' : `finds ${(100 * recall).toFixed(0)} %, `;
    cell.append(element('span', `${found}${perImage.toFixed(2)} FP`, {class: 'difference'}));
    return cell;
  };
  let group = '';
  table('key', ['', ...data.runs.map((run, i) => label(i))], data.runs[0].key.flatMap(([where, what], place) => {
    const rows = where === group ? [] : [[element('strong', where)]];
    group = where;
    return [...rows, [what, ...data.runs.map(run => figure(run.key[place]))]];
  }));
  table('points', ['for', ...data.runs.map((run, i) => label(i))], data.runs[0].points.map(
    ([what], place) => [what, ...data.runs.map(run => copied(run.points[place]))]));
  at('few').textContent = data.few;
  at('confidence').value = data.confidence;
  const draw = () => {
    at('value').textContent = Number(at('confidence').value).toFixed(3);
    drawFigures(Number(at('confidence').value));
    drawGallery();
  };
  at('confidence').addEventListener('input', draw);
  for (const id of ['show', 'kind', 'class', 'images']) at(id).addEventListener('change', () => { limit = step; drawGallery(); });
  at('more').addEventListener('click', () => { limit += step; drawGallery(); });
  draw();
}

start();
