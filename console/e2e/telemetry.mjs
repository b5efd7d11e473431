// Messages as they arrive, from earlier, filtered, and the anomalies among them.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { availableParallelism, totalmem } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'

import { kit, page, test } from './kit.mjs'
import { DEVICE, until } from './stage.mjs'

const READINGS = '.row[data-output="readings"]'

/** The bodies of readings in the hub's log since a time, oldest first. */
async function readings(since) {
  const { messages } = await kit.stage.get(`/api/v1/telemetry?device=${DEVICE}&module=host-sensor&max=1000&since=${new Date(since).toISOString()}`)
  return messages.filter((message) => message.systemProperties.outputName === 'readings').map((message) => JSON.parse(message.body))
}

test('a reading on the page is the reading in the hub, and more arrive without a reload', async () => {
  const shown = await page('/telemetry')
  const born = await shown.evaluate(() => performance.timeOrigin)
  const readings = shown.locator('.row[data-output="readings"]')
  const row = await readings.first().elementHandle()
  const { seq, offset, partition } = await row.evaluate((element) => ({ ...element.dataset }))
  const text = await row.evaluate((element) => element.textContent)
  assert.ok(text.includes(`#${seq}`), text)
  const percent = Number(/cpu\.percent ([\d.]+)/u.exec(text)[1])
  const { messages } = await kit.stage.get(`/api/v1/telemetry?partition=${partition}&from=${offset}&max=1`)
  const body = JSON.parse(messages[0].body)
  console.log(`    page: #${seq} cpu.percent ${percent}; hub, partition ${partition} offset ${messages[0].offset}: #${body.seq} cpu.percent ${body.cpu.percent}`)
  assert.equal(messages[0].offset, Number(offset))
  assert.equal(body.seq, Number(seq))
  assert.equal(percent, Number(body.cpu.percent.toPrecision(6)))
  await until('three further readings are on the page', async () => {
    const seqs = await readings.evaluateAll((rows) => rows.map((each) => Number(each.dataset.seq)))
    return new Set(seqs.filter((each) => each > Number(seq))).size >= 3
  })
  assert.equal(await shown.evaluate(() => performance.timeOrigin), born, 'the page was reloaded')
  await shown.close()
})

test('a pause holds the view and counts what arrives', async () => {
  const shown = await page('/telemetry')
  await shown.locator('.row').first().waitFor()
  await shown.getByRole('button', { name: 'Pause' }).click()
  const rows = shown.locator('[data-rows]')
  const held = await rows.getAttribute('data-rows')
  await shown.getByRole('button', { name: /Go on \([1-9]/u }).waitFor()
  assert.equal(await rows.getAttribute('data-rows'), held)
  await shown.getByRole('button', { name: /Go on/u }).click()
  await until('the rows that waited are shown', async () => Number(await rows.getAttribute('data-rows')) > Number(held))
  await shown.close()
})

test('the hub filters, and says what is wrong with a filter', async () => {
  const shown = await page('/telemetry')
  const field = shown.getByLabel('Filter, done by the hub')
  await field.fill('$body.seq > 0 AND $body.cpu.percent >= 0')
  await shown.getByRole('button', { name: 'Filter', exact: true }).click()
  await shown.waitForURL(/filter=/u)
  await shown.locator('.row[data-output="readings"]').first().waitFor()
  assert.equal(await shown.locator('.row:not([data-output="readings"])').count(), 0)
  await field.fill('$body.seq >')
  await shown.getByRole('button', { name: 'Filter', exact: true }).click()
  await shown.getByRole('alert').getByText(/position|expected|ends/iu).first().waitFor()
  await shown.close()
})

test('the hub finds an earlier message by a filter, and its address shows it to anybody', async () => {
  const [reading] = await until('a reading that is older than ten seconds', async () => {
    const old = await readings(Date.now() - 3_600_000)
    return old.length > 0 && Date.parse(old[0].time) < Date.now() - 10_000 ? old : undefined
  })
  const opened = Date.now()
  const filter = `$body.seq = ${reading.seq} AND $body.run = '${reading.run}'`
  const shown = await page(`/telemetry?since=1h&filter=${encodeURIComponent(filter)}`)
  const row = shown.locator(`${READINGS}[data-seq="${reading.seq}"]`)
  await row.waitFor()
  assert.equal(await shown.locator('.row').count(), 1)
  await row.click()
  await shown.getByRole('dialog').getByText(`"run": "${reading.run}"`).waitFor()
  const place = new URL(shown.url()).searchParams.get('message')
  assert.match(place, /^\d+:\d+$/u)
  assert.ok(Date.parse(reading.time) < opened, 'the reading is not from before')
  // The same address in another page, where the filter starts from now and lets nothing through.
  const other = await page(`/telemetry?since=now&filter=${encodeURIComponent(filter)}&message=${place}`)
  await other.getByRole('dialog').getByText(`"run": "${reading.run}"`).waitFor()
  await other.keyboard.press('Escape')
  await other.getByText('No message from now on has passed the filter').waitFor()
  await other.close()
  await shown.close()
})

test('a view copied as a command gives the same messages in a terminal', async () => {
  const [reading] = await until('readings', async () => (await readings(Date.now() - 60_000)).slice(-1))
  const shown = await page(`/telemetry?since=1h&module=host-sensor&filter=${encodeURIComponent(`$body.seq >= ${reading.seq} AND $body.run = '${reading.run}'`)}`)
  await shown.locator(`${READINGS}[data-seq="${reading.seq}"]`).waitFor()
  await shown.getByRole('button', { name: 'Copy as…' }).click()
  const commands = await shown.getByRole('dialog').locator('.command code').allTextContents()
  await shown.close()
  const run = (command, ...more) => {
    const env = { ...process.env, TOKEN: kit.stage.token() }
    try {
      return execFileSync('sh', ['-c', command.replace('curl ', `curl --silent --fail ${more.join(' ')} `)], { cwd: join(kit.stage.folder, 'hub'), env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
    } catch (error) {
      // A live stream is ended by the time limit, which is curl's exit code 28.
      assert.equal(error.status, 28, `${command}: ${error.stderr}`)
      return error.stdout
    }
  }
  const earlier = commands.find((command) => command.includes('/api/v1/telemetry?'))
  const page1 = JSON.parse(run(earlier))
  assert.equal(JSON.parse(page1.messages[0].body).seq, reading.seq)
  const live = commands.find((command) => command.includes('/api/v1/events?'))
  const text = run(live, '--max-time 4')
  const news = [...text.matchAll(/^data: (\{"topic".*)$/gmu)].flatMap((found) => JSON.parse(found[1]).data.rows)
  assert.ok(news.length > 0, text)
  for (const row of news) assert.ok(row.moduleId === 'host-sensor' && JSON.parse(row.body).seq > reading.seq, row.body)
})

/** Processors as busy as this have no room for a burden that shows; then its memory shows it. */
const CPU_BUSY_PERCENT = 60
/** A burden shows by so many points of a hundred more than anything before it. */
const JUMP = { 'cpu.percent': 8, 'memory.usedPercent': 5 }
/** Readings in a row without a mark that count as quiet. */
const QUIET = 10
const THRESHOLD = 4
/** Whatever else the machine does may hide one burden; each is looked at as strictly. */
const BURDENS_MAX = 3

/** Work for every core, or a sixth of the memory taken by all cores at once, until ended. */
class Burden {
  constructor(metric) {
    this.stop = new Int32Array(new SharedArrayBuffer(4))
    const spin = 'while (Atomics.load(stop, 0) === 0);'
    const hold = 'const held = Buffer.alloc(bytes, 1); Atomics.wait(stop, 0, 0); held.fill(0, 0, 1);'
    const cores = availableParallelism()
    const bytes = Math.floor(totalmem() / 6 / (2 * cores))
    const code = `const { workerData: [stop, bytes] } = require("node:worker_threads"); ${metric === 'cpu.percent' ? spin : hold}`
    this.workers = Array.from({ length: metric === 'cpu.percent' ? cores : 2 * cores }, () => new Worker(code, { eval: true, workerData: [this.stop, bytes] }))
  }

  async end() {
    Atomics.store(this.stop, 0, 1)
    Atomics.notify(this.stop, 0)
    await Promise.all(this.workers.map((worker) => worker.terminate()))
  }
}

const valueOf = (body, metric) => metric.split('.').reduce((value, key) => value?.[key], body)

test('a burden makes a mark, which is the anomaly in the hub of a reading that came after', async () => {
  const last = (await until('some readings', async () => {
    const all = await readings(Date.now() - 60_000)
    return all.length >= 5 && all
  })).slice(-5)
  const metric = Math.max(...last.map((body) => body.cpu.percent ?? 100)) < CPU_BUSY_PERCENT ? 'cpu.percent' : 'memory.usedPercent'
  kit.stage.cli('twin', 'set', DEVICE, '-m', 'anomaly', '--desired', JSON.stringify({ metrics: [metric], history: 10, threshold: THRESHOLD }))
  await until('the module obeys', async () => (await kit.stage.get(`/twins/${DEVICE}/modules/anomaly`)).properties.reported.metrics?.value?.[0] === metric)
  const shown = await page(`/telemetry?series=${encodeURIComponent(JSON.stringify([metric]))}`)
  await shown.locator(READINGS).first().waitFor()
  try {
    let found
    for (let attempt = 1; found === undefined; attempt += 1) {
      found = await underBurden(shown, metric)
      assert.ok(found !== undefined || attempt < BURDENS_MAX, `no mark in ${BURDENS_MAX} burdens`)
    }
    await isInTheHub(found, metric)
    const { mark } = found
    await shown.locator(`.row[data-anomaly="true"][data-partition="${mark.partition}"][data-offset="${mark.offset}"]`).first().waitFor()
    await until('the chart has the mark', async () => Number(await shown.locator(`[data-chart="${metric}"]`).getAttribute('data-marks')) >= 1)
  } finally {
    kit.stage.cli('twin', 'set', DEVICE, '-m', 'anomaly', '--desired', '{"metrics": null, "history": null, "threshold": null}')
  }
  await shown.close()
})

/** A quiet time, then a burden; gives the first mark that is as high as only the burden is. */
async function underBurden(shown, metric) {
  const marks = () => shown.locator(`[data-anomaly-metric="${metric}"]`).evaluateAll((all) => all.map((each) => Object.fromEntries(Object.entries(each.dataset).map(([name, value]) => [name, Number(value)]))))
  // A window of readings without a mark of the metric; whatever else the machine does may end one.
  let from = Date.now()
  const quiet = await until(`${QUIET} readings without a mark`, async () => {
    const seen = (await marks()).filter((mark) => mark.time > from)
    if (seen.length > 0) from = Math.max(...seen.map((mark) => mark.time))
    const window = await readings(from)
    return window.length >= QUIET && window
  }, 180_000, 500)
  const usual = Math.max(...quiet.map((body) => valueOf(body, metric)))
  const began = Date.now()
  assert.deepEqual((await marks()).filter((mark) => mark.time > from), [], 'there was a mark before the burden')
  const burden = new Burden(metric)
  try {
    const high = (each) => each.time > began && each.value > usual + JUMP[metric]
    const mark = await until('a mark of the burden is on the page', async () => (await marks()).find(high), 30_000).catch(() => undefined)
    if (mark) console.log(`    ${metric} at most ${usual} in ${quiet.length} quiet readings; the mark: ${mark.value} in reading #${mark.seq}, ${mark.time - began} ms after the burden began`)
    else console.log(`    ${metric} at most ${usual} in ${quiet.length} quiet readings, and no mark above ${usual + JUMP[metric]} under the burden`)
    return mark && { mark, began }
  } finally {
    await burden.end()
  }
}

/** The mark on the page is a message in the hub's log, about a reading that is there too. */
async function isInTheHub({ mark, began }, metric) {
  const { messages } = await kit.stage.get(`/api/v1/telemetry?partition=${mark.partition}&from=${mark.offset}&max=1`)
  const [message] = messages
  const body = JSON.parse(message.body)
  assert.deepEqual([message.offset, message.deviceId, message.moduleId, message.systemProperties.outputName], [mark.offset, DEVICE, 'anomaly', 'anomalies'])
  assert.deepEqual([body.metric, body.seq, body.value, body.threshold], [metric, mark.seq, mark.value, THRESHOLD])
  assert.equal(Date.parse(message.enqueuedTime), mark.time)
  assert.ok(body.score > THRESHOLD, `a score of ${body.score}`)
  const reading = (await readings(began)).find((each) => each.seq === mark.seq)
  assert.ok(reading !== undefined, `reading #${mark.seq} did not come after the burden began`)
  assert.equal(valueOf(reading, metric), mark.value)
}
