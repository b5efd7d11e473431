/** Messages as they arrive: charts, anomalies, rows. */
import { Alert, Badge, Button, Card, Drawer, Group, Modal, MultiSelect, SegmentedControl, Select, SimpleGrid, Stack, Text, TextInput } from '@mantine/core'
import { useDisclosure } from '@mantine/hooks'
import { useNavigate } from '@tanstack/react-router'
import { lazy, Suspense, useMemo, useState, type CSSProperties, type FormEvent, type ReactNode } from 'react'

import { telemetryRoute } from '../../app/router'
import { PauseIcon, PlayIcon } from '../../app/icons'
import { Command, Copy, Problem } from '../../parts/common'
import { SIGNS } from '../../app/icons'
import { Window } from '../../parts/window'
import { buckets } from '../../pure/buckets'
import { jsonBody, ranked } from '../../pure/series'
import type { Row, Rows } from '../../pure/telemetry'
import { count, fine, RANGES, short, type Range } from '../../pure/time'
import { moduleNames, quoted, useDevice } from './context'
import { useRows } from './rows'

const Chart = lazy(() => import('../../parts/chart').then(({ Chart }) => ({ default: Chart })))

const CHARTS_MAX = 4
const CHARTS_FIRST = 2
const ROW_PX = 30
/** One bucket per two pixels of a wide screen. */
const BUCKETS = 400

export function Telemetry(): ReactNode {
  const { id } = useDevice()
  const { module, filter } = telemetryRoute.useSearch()
  // Another filter is another list: nothing of the old one stays.
  return <Tail key={`${id} ${module} ${filter}`} device={id} module={module} filter={filter} />
}

function Tail({ device, module, filter }: { device: string; module: string | undefined; filter: string | undefined }): ReactNode {
  const { view } = useDevice()
  const search = telemetryRoute.useSearch()
  const navigate = useNavigate()
  const [paused, setPaused] = useState(false)
  const [opened, setOpened] = useState<Row>()
  const { rows, version, problems, waiting } = useRows(device, module, filter, paused)
  const set = (part: Partial<typeof search>): void => void navigate({ to: '.', search: { ...search, ...part }, replace: true })
  const range: Range = search.range ?? '5m'
  return (
    <Stack gap="md">
      <Tools module={module} filter={filter} range={range} set={set} names={moduleNames(view).filter((name) => !name.startsWith('$'))} device={device} />
      {problems.refused !== undefined && (
        <Alert color="thread" variant="light" role="alert" title="The hub does not take this filter">
          {problems.refused}
        </Alert>
      )}
      {problems.read !== undefined && <Problem error={problems.read} what="Earlier messages cannot be read" />}
      <Charts rows={rows} version={version} range={range} chosen={search.series} choose={(series) => set({ series })} />
      <Group justify="space-between" gap="xs">
        <Group gap="sm">
          <Button size="xs" variant="default" leftSection={paused ? <PlayIcon size={14} /> : <PauseIcon size={14} />} onClick={() => setPaused(!paused)}>
            {paused ? `Go on (${count(waiting)} new)` : 'Pause'}
          </Button>
          <Text size="sm" c="dimmed" role="status">
            <span data-rows={rows.ring.length}>{count(rows.ring.length)} rows</span> · dropped by view: <b data-dropped={rows.dropped}>{count(rows.dropped)}</b>
          </Text>
        </Group>
        <Text size="sm" c="dimmed">
          newest first
        </Text>
      </Group>
      {rows.ring.length === 0 ? (
        <Card>
          <Text>{filter === undefined ? 'No message of this device is in the hub yet. They appear here as they arrive.' : 'Waiting for the first message that passes the filter. A filter starts from now.'}</Text>
        </Card>
      ) : (
        <List rows={rows} open={setOpened} />
      )}
      <Drawer opened={opened !== undefined} onClose={() => setOpened(undefined)} position="right" size="lg" title="Message" closeButtonProps={{ 'aria-label': 'Close the message' }}>
        {opened && <Details row={opened} />}
      </Drawer>
    </Stack>
  )
}

type Set = (part: { module?: string | undefined; filter?: string | undefined; range?: Range | undefined }) => void

function Tools({ module, filter, range, set, names, device }: { module: string | undefined; filter: string | undefined; range: Range; set: Set; names: string[]; device: string }): ReactNode {
  const [text, setText] = useState(filter ?? '')
  const [opened, { open, close }] = useDisclosure()
  const send = (event: FormEvent): void => {
    event.preventDefault()
    set({ filter: text.trim() || undefined })
  }
  return (
    <form onSubmit={send}>
      <Group gap="sm" align="flex-end">
        <Select label="Module" placeholder="all" data={names} value={module ?? null} onChange={(chosen) => set({ module: chosen ?? undefined })} clearable w={170} />
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
        <SegmentedControl data={Object.keys(RANGES)} value={range} onChange={(chosen) => set({ range: chosen as Range })} aria-label="Time range of the charts" />
        <Button variant="default" onClick={open}>
          Copy as…
        </Button>
      </Group>
      <Modal opened={opened} onClose={close} title="The same from a terminal" size="lg" closeButtonProps={{ 'aria-label': 'Close' }}>
        <Stack>
          <Text size="sm">On the hub's machine:</Text>
          <Command text={`selvedge monitor --device ${quoted(device)}`} />
          <Text size="sm">From anywhere, with a token of a policy that has the right “service”:</Text>
          <Command text={`curl --cacert ca.pem -N -H "Authorization: $TOKEN" \\\n  '${location.origin}/api/v1/telemetry/stream?device=${encodeURIComponent(device)}&from=now'`} />
          <Text size="sm">This view, for somebody with access to the console:</Text>
          <Command text={location.href} label="Copy the address" />
        </Stack>
      </Modal>
    </form>
  )
}

function Charts({ rows, version, range, chosen, choose }: { rows: Rows; version: number; range: Range; chosen: string[] | undefined; choose: (series: string[] | undefined) => void }): ReactNode {
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
      <MultiSelect label="Charts" data={paths} value={shown} onChange={(series) => choose(series.length > 0 ? series : undefined)} maxValues={CHARTS_MAX} searchable size="xs" comboboxProps={{ withinPortal: true }} />
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
    <Card padding="sm" data-chart={path}>
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
          <Text key={`${row.message.partition}:${row.message.offset}`} size="sm" className="mono" data-anomaly-metric={row.anomaly?.metric}>
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
