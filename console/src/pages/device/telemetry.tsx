/** Messages as they arrive: charts, anomalies, rows. */
import { Alert, Badge, Button, Card, Drawer, Group, Modal, MultiSelect, SegmentedControl, Select, SimpleGrid, Stack, Text, TextInput } from '@mantine/core'
import { useDisclosure } from '@mantine/hooks'
import { useQuery } from '@tanstack/react-query'
import { useNavigate } from '@tanstack/react-router'
import { Suspense, useMemo, useState, type CSSProperties, type FormEvent, type ReactNode } from 'react'

import { messageAt, telemetryPath, type Wanted } from '../../api/queries'
import { telemetryRoute } from '../../app/router'
import { PauseIcon, PlayIcon } from '../../app/icons'
import { Command, Copy, Problem } from '../../parts/common'
import { later } from '../../parts/later'
import { SIGNS } from '../../app/icons'
import type { ChartProps } from '../../parts/chart'
import { Window } from '../../parts/window'
import { buckets } from '../../pure/buckets'
import { jsonBody, ranked } from '../../pure/series'
import { localTime, NOW, STARTS, startTime } from '../../pure/start'
import { rowOf, type Row, type Rows } from '../../pure/telemetry'
import { clock, count, fine, RANGES, short, type Range } from '../../pure/time'
import { moduleNames, quoted, useDevice } from './context'
import { useRows } from './rows'

const Chart = later<ChartProps>(() => import('../../parts/chart').then(({ Chart }) => ({ default: Chart })))

const CHARTS_MAX = 4
const CHARTS_FIRST = 2
const ROW_PX = 30
/** One bucket per two pixels of a wide screen. */
const BUCKETS = 400

export function Telemetry(): ReactNode {
  const { id } = useDevice()
  const { module, filter, since } = telemetryRoute.useSearch()
  // Another filter is another list: nothing of the old one stays.
  return <Tail key={JSON.stringify([id, module, filter, since])} wanted={{ device: id, module, filter, since }} />
}

function Tail({ wanted }: { wanted: Wanted }): ReactNode {
  const { view } = useDevice()
  const search = telemetryRoute.useSearch()
  const navigate = useNavigate()
  const [paused, setPaused] = useState(false)
  const { rows, version, problems, waiting, progress } = useRows(wanted, paused)
  const set = (part: Partial<typeof search>): void => void navigate({ to: '.', search: { ...search, ...part }, replace: true })
  const range: Range = search.range ?? '5m'
  return (
    <Stack gap="md">
      <Tools wanted={wanted} set={set} names={moduleNames(view).filter((name) => !name.startsWith('$'))} />
      {problems.refused !== undefined && (
        <Alert color="thread" variant="light" role="alert" title="The hub does not take this filter">
          {problems.refused}
        </Alert>
      )}
      {problems.read !== undefined && <Problem error={problems.read} what="Earlier messages cannot be read" />}
      {problems.cut !== undefined && (
        <Alert color="denim" variant="light" role="status" title="Not everything is in this view">
          Messages from {problems.cut[0] === 0 ? 'the start' : clock(problems.cut[0], Date.now())} to {clock(problems.cut[1], Date.now())} were too many to read. Begin later, or filter for less.
        </Alert>
      )}
      <Charts rows={rows} version={version} range={range} setRange={(chosen) => set({ range: chosen })} chosen={search.series} choose={(series) => set({ series })} />
      <Group justify="space-between" gap="xs">
        <Group gap="sm">
          <Button size="xs" variant="default" leftSection={paused ? <PlayIcon size={14} /> : <PauseIcon size={14} />} onClick={() => setPaused(!paused)}>
            {paused ? `Go on (${count(waiting)} new)` : 'Pause'}
          </Button>
          <Text size="sm" c="dimmed" role="status">
            <span data-rows={rows.ring.length}>{count(rows.ring.length)} rows</span> · dropped by view: <b data-dropped={rows.dropped}>{count(rows.dropped)}</b>
            {progress !== undefined && ` · looking through earlier messages, ${Math.floor(progress * 100)} %`}
          </Text>
        </Group>
        <Text size="sm" c="dimmed">
          newest first
        </Text>
      </Group>
      {rows.ring.length === 0 ? (
        <Card>
          <Text>{progress !== undefined ? 'Looking through earlier messages…' : emptyWords(wanted)}</Text>
        </Card>
      ) : (
        <List rows={rows} open={(row) => set({ message: placeOf(row) })} />
      )}
      <Drawer opened={search.message !== undefined} onClose={() => set({ message: undefined })} position="right" size="lg" title="Message" closeButtonProps={{ 'aria-label': 'Close the message' }}>
        {search.message !== undefined && <Opened place={search.message} rows={rows} />}
      </Drawer>
    </Stack>
  )
}

function emptyWords({ filter, module, since }: Wanted): string {
  if (filter !== undefined) return `No message ${since === NOW ? 'from now on' : 'since the chosen start'} has passed the filter. New ones appear here; choose an earlier start to look further back.`
  if (since !== undefined || module !== undefined) return 'No message since the chosen start. New ones appear here; choose an earlier start to look further back.'
  return 'No message of this device is in the hub yet. They appear here as they arrive.'
}

const placeOf = ({ message }: Row): string => `${message.partition}:${message.offset}`

type Set = (part: { module?: string | undefined; filter?: string | undefined; since?: string | undefined }) => void

const START_WORDS = [
  { value: '', label: 'the latest' },
  { value: NOW, label: 'now' },
  { value: '5m', label: '5 minutes ago' },
  { value: '1h', label: 'an hour ago' },
  { value: '6h', label: '6 hours ago' },
  { value: '24h', label: 'a day ago' },
]
const A_TIME = 'time'

function Tools({ wanted, set, names }: { wanted: Wanted; set: Set; names: string[] }): ReactNode {
  const { module, filter, since } = wanted
  const [text, setText] = useState(filter ?? '')
  const [opened, { open, close }] = useDisclosure()
  const send = (event: FormEvent): void => {
    event.preventDefault()
    set({ filter: text.trim() || undefined })
  }
  const atTime = since !== undefined && !START_WORDS.some((word) => word.value === since)
  const begin = (word: string | null): void => set({ since: word === A_TIME ? new Date(Date.now() - STARTS['1h']).toISOString() : (word ?? '') === '' ? undefined : (word ?? undefined) })
  return (
    <form onSubmit={send}>
      <Group gap="sm" align="flex-end">
        <Select label="Module" placeholder="all" data={names} value={module ?? null} onChange={(chosen) => set({ module: chosen ?? undefined })} clearable w={150} />
        <Select label="Begin with" data={[...START_WORDS, { value: A_TIME, label: 'a time…' }]} value={atTime ? A_TIME : (since ?? '')} onChange={begin} allowDeselect={false} w={150} />
        {atTime && <StartField since={since} set={set} />}
        <TextInput
          label="Filter, done by the hub"
          placeholder="$body.cpu.percent > 50 AND level = 'high'"
          value={text}
          onChange={(event) => setText(event.currentTarget.value)}
          flex={1}
          miw={220}
          styles={{ input: { fontFamily: 'var(--mantine-font-family-monospace)', fontSize: '0.8125rem' } }}
        />
        <Button type="submit" variant="default">
          Filter
        </Button>
        <Button variant="default" onClick={open}>
          Copy as…
        </Button>
      </Group>
      <Modal opened={opened} onClose={close} title="The same from a terminal" size="lg" closeButtonProps={{ 'aria-label': 'Close' }}>
        <Commands wanted={wanted} />
      </Modal>
    </form>
  )
}

/** A moment of the reader's own clock. */
function StartField({ since, set }: { since: string; set: Set }): ReactNode {
  const [text, setText] = useState(() => localTime(Date.parse(since)))
  const take = (): void => {
    const time = Date.parse(text)
    if (!Number.isNaN(time)) set({ since: new Date(time).toISOString() })
  }
  return <TextInput type="datetime-local" label="Time" value={text} onChange={(event) => setText(event.currentTarget.value)} onBlur={take} w={200} />
}

const CURL = 'curl --cacert ca.pem -H "Authorization: $TOKEN"'

function Commands({ wanted }: { wanted: Wanted }): ReactNode {
  const { device, module, filter, since } = wanted
  const plainView = module === undefined && filter === undefined
  const time = startTime(since, Date.now())
  const topic = `telemetry:${encodeURIComponent(device)}${module === undefined ? '' : `/${encodeURIComponent(module)}`}${filter === undefined ? '' : `?${filter}`}`
  // A quote would end the shell's text.
  const address = (path: string): string => `'${location.origin}${path.replaceAll("'", '%27')}'`
  return (
    <Stack>
      {plainView && (
        <>
          <Text size="sm">On the hub's machine:</Text>
          <Command text={`selvedge monitor --device ${quoted(device)}`} />
        </>
      )}
      <Text size="sm">As it arrives, filtered by the hub, with a token of a policy that has the right “service”:</Text>
      <Command text={`${CURL} -N \\\n  ${address(`/api/v1/events?topic=${encodeURIComponent(topic)}`)}`} />
      <Text size="sm">What the hub has {time === undefined ? 'from the first message on' : 'since the chosen start'}, a page at a time:</Text>
      <Command text={`${CURL} \\\n  ${address(telemetryPath(wanted, time === undefined ? { from: 0 } : { since: new Date(time).toISOString() }, 1000))}`} />
      <Text size="sm">This view, for somebody with access to the console:</Text>
      <Command text={location.href} label="Copy the address" />
    </Stack>
  )
}

function Charts({ rows, version, range, setRange, chosen, choose }: { rows: Rows; version: number; range: Range; setRange: (range: Range) => void; chosen: string[] | undefined; choose: (series: string[] | undefined) => void }): ReactNode {
  const paths = useMemo(() => ranked(rows.paths.keys()), [rows, rows.paths.size])
  const shown = (chosen ?? paths.slice(0, CHARTS_FIRST)).slice(0, CHARTS_MAX)
  const step = Math.floor(version)
  const [from, to] = useMemo(() => {
    // The hub's clock counts, and between messages this machine's.
    const newest = rows.ring.at(rows.ring.length - 1)?.time ?? Date.now()
    const end = Math.abs(Date.now() - newest) < RANGES[range] ? Math.max(newest, Date.now()) : newest
    return [end - RANGES[range], end]
  }, [step, range])
  if (paths.length === 0) return null
  return (
    <Stack gap="sm">
      <Group gap="sm" align="flex-end">
        <MultiSelect label="Charts" data={paths} value={shown} onChange={(series) => choose(series.length > 0 ? series : undefined)} maxValues={CHARTS_MAX} searchable size="xs" comboboxProps={{ withinPortal: true }} flex={1} miw={220} />
        <SegmentedControl data={Object.keys(RANGES)} value={range} onChange={(value) => setRange(value as Range)} size="xs" aria-label="Time range of the charts" />
      </Group>
      <Suspense fallback={<Card h={190} />}>
        <SimpleGrid cols={{ base: 1, md: shown.length > 1 ? 2 : 1 }}>
          {shown.map((path) => (
            <Numbers key={path} path={path} rows={rows} from={from} to={to} step={step} />
          ))}
        </SimpleGrid>
      </Suspense>
      <Anomalies rows={rows} from={from} step={step} />
    </Stack>
  )
}

function Numbers({ path, rows, from, to, step }: { path: string; rows: Rows; from: number; to: number; step: number }): ReactNode {
  const columns = useMemo(() => buckets(rows.points(path, from), from, to, BUCKETS), [path, rows, from, to, step])
  const marks = useMemo(
    () => rows.anomalies.filter((row) => row.anomaly?.metric === path && row.time >= from).map((row) => ({ time: row.time, value: row.anomaly?.value ?? 0 })),
    [path, rows, from, step],
  )
  const last = columns.last.findLast((value) => value !== null)
  return (
    <Card padding="sm" data-chart={path} data-marks={marks.length}>
      <Group justify="space-between" mb={4}>
        <Text size="sm" fw={600} className="mono">
          {path}
        </Text>
        <Group gap="xs">
          {marks.length > 0 && (
            <Badge color="thread" variant="light" leftSection={SIGNS.bad} tt="none">
              {marks.length} {marks.length === 1 ? 'anomaly' : 'anomalies'}
            </Badge>
          )}
          <Text size="sm" fw={600} className="mono">
            {last === null || last === undefined ? '–' : short(last)}
          </Text>
        </Group>
      </Group>
      <Chart columns={columns} marks={marks} range={[from, to]} label={path} />
    </Card>
  )
}

const ANOMALIES_SHOWN = 5

function Anomalies({ rows, from, step }: { rows: Rows; from: number; step: number }): ReactNode {
  const found = useMemo(() => rows.anomalies.filter((row) => row.time >= from).reverse(), [rows, from, step])
  if (found.length === 0) return null
  return (
    <Card padding="sm" aria-label="Anomalies" component="section">
      <Text size="sm" fw={600} mb={4}>
        {count(found.length)} {found.length === 1 ? 'anomaly' : 'anomalies'} in this range
      </Text>
      <Stack gap={2}>
        {found.slice(0, ANOMALIES_SHOWN).map((row) => (
          <Text key={`${row.message.partition}:${row.message.offset}`} size="sm" className="mono" data-anomaly-metric={row.anomaly?.metric} data-value={row.anomaly?.value} data-seq={row.seq} data-time={row.time} data-partition={row.message.partition} data-offset={row.message.offset}>
            <span className="state" data-tone="bad">
              {SIGNS.bad}
            </span>{' '}
            {fine(row.time)} {row.preview}
            {row.seq !== undefined && `, reading #${row.seq}`}
          </Text>
        ))}
      </Stack>
    </Card>
  )
}

function List({ rows, open }: { rows: Rows; open: (row: Row) => void }): ReactNode {
  const { ring } = rows
  const draw = (index: number, style: CSSProperties): ReactNode => {
    const row = ring.at(ring.length - 1 - index)
    if (!row) return null
    const { message } = row
    return (
      <button
        type="button"
        key={`${message.partition}:${message.offset}`}
        className="row"
        style={style}
        onClick={() => open(row)}
        data-odd={(ring.total - index) % 2 === 1}
        data-anomaly={row.anomaly !== undefined}
        data-seq={row.seq}
        data-offset={message.offset}
        data-partition={message.partition}
        data-output={row.output}
      >
        <span className="mono" style={{ width: '7.5rem', flex: 'none' }}>
          {fine(row.time)}
        </span>
        <span className="cell" style={{ width: '10.5rem', flex: 'none' }}>
          {row.anomaly && (
            <span className="state" data-tone="bad" title="anomaly">
              {SIGNS.bad}&nbsp;
              <span className="hidden-text">anomaly </span>
            </span>
          )}
          {row.module || 'device'}
          {row.output && ` / ${row.output}`}
        </span>
        <span className="mono" style={{ width: '4.5rem', flex: 'none' }}>
          {row.seq === undefined ? '' : `#${row.seq}`}
        </span>
        <span className="mono cell">{row.preview}</span>
      </button>
    )
  }
  return <Window count={ring.length} total={ring.total} rowHeight={ROW_PX} height="min(60vh, 560px)" label="Messages, newest first" className="rows" news="top" row={draw} />
}

/** The message that the address names: of this list, or else read from the hub. */
function Opened({ place, rows }: { place: string; rows: Rows }): ReactNode {
  const [partition = -1, offset = -1] = place.split(':').map(Number)
  const held = rows.find(partition, offset)
  const { data, error } = useQuery({ queryKey: ['message', place], queryFn: ({ signal }) => messageAt(partition, offset, signal), enabled: held === undefined, staleTime: Infinity })
  if (held !== undefined) return <Details row={held} />
  if (error !== null) return <Problem error={error} what="The message cannot be read" />
  const message = data?.messages.find((each) => each.offset === offset)
  if (message !== undefined) return <Details row={rowOf(message)} />
  return <Text>{data === undefined ? 'Reading…' : 'This message is not in the hub any more: it was older than the hub keeps telemetry.'}</Text>
}

function Details({ row }: { row: Row }): ReactNode {
  const { message } = row
  const body = jsonBody(message.body, message.bodyEncoding)
  const text = body === undefined ? message.body : JSON.stringify(body, null, 2)
  return (
    <Stack>
      <Text size="sm">
        {message.deviceId}
        {message.moduleId && ` / ${message.moduleId}`}, partition {message.partition}, offset {message.offset}, taken by the hub at {message.enqueuedTime}
      </Text>
      <Part title="Body" text={text} />
      {message.bodyEncoding === 'base64' && <Text size="sm">The body is not text; this is its base64.</Text>}
      <Part title="Application properties" text={JSON.stringify(message.properties, null, 2)} />
      <Part title="System properties" text={JSON.stringify(message.systemProperties, null, 2)} />
    </Stack>
  )
}

function Part({ title, text }: { title: string; text: string }): ReactNode {
  return (
    <div>
      <Group justify="space-between">
        <Text size="sm" fw={600}>
          {title}
        </Text>
        <Copy text={text} label={`Copy: ${title}`} />
      </Group>
      <pre className="command mono" style={{ overflow: 'auto', margin: 0 }} tabIndex={0}>
        {text}
      </pre>
    </div>
  )
}
