/** The deployment manifest: edited as text, checked by the hub's own validator, compared, drawn, applied. */
import { Alert, Button, Group, Modal, SegmentedControl, Skeleton, Stack, Table, Text } from '@mantine/core'
import { useDebouncedValue } from '@mantine/hooks'
import { notifications } from '@mantine/notifications'
import { keepPreviousData, useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useNavigate } from '@tanstack/react-router'
import { Suspense, useEffect, useMemo, useRef, useState, type ReactNode } from 'react'

import { applyContent, currentContent, validate } from '../../api/queries'
import type { ContentFault, Validation } from '../../api/types'
import { setModulesRoute } from '../../app/router'
import { Changes } from '../../parts/changes'
import type { Marked } from '../../parts/code'
import { Command, Copy, Problem } from '../../parts/common'
import { later } from '../../parts/later'
import { Meanwhile } from '../../parts/meanwhile'
import { State } from '../../parts/state'
import { applyPatch, changes, mergePatch } from '../../pure/diff'
import { isObject, parsed, pretty, type Json, type JsonObject } from '../../pure/json'
import { graph } from '../../pure/routes'
import { quoted, useDevice } from './context'
import { Faults } from './twin'

const Code = later(() => import('../../parts/code'))
const GraphView = later(() => import('../../parts/graph'))

/** Typing pauses so long before the hub is asked, in milliseconds. */
const TYPING_MS = 350
const VIEWS = [
  { value: 'edit', label: 'Edit' },
  { value: 'changes', label: 'Changes' },
  { value: 'routes', label: 'Routes' },
  { value: 'command', label: 'Command' },
]

export function SetModules(): ReactNode {
  const { id, view } = useDevice()
  const now = useQuery({ queryKey: ['content', id], queryFn: ({ signal }) => currentContent(id, signal), staleTime: Infinity })
  // The live view tells when desired properties moved; then what is set is read again.
  const told = view.twins.map((twin) => twin.desiredVersion).join()
  const known = useRef(told)
  const { refetch } = now
  useEffect(() => {
    if (known.current === told) return
    known.current = told
    void refetch()
  }, [told, refetch])
  if (now.error && !now.data) return <Problem error={now.error} what="What is set now cannot be read" retry={() => void now.refetch()} />
  if (!now.data) return <Skeleton height={420} />
  return <Editor key={id} device={id} latest={now.data} />
}

/** A first manifest for a device that has none. */
const EMPTY: Json = {
  modulesContent: {
    $edgeAgent: {
      'properties.desired': {
        schemaVersion: '1.1',
        runtime: { type: 'docker', settings: {} },
        systemModules: {
          edgeAgent: { type: 'docker', settings: { image: 'selvedge', createOptions: '{}' } },
          edgeHub: { type: 'docker', status: 'running', restartPolicy: 'always', settings: { image: 'selvedge', createOptions: '{}' } },
        },
        modules: {},
      },
    },
    $edgeHub: { 'properties.desired': { schemaVersion: '1.1', routes: {}, storeAndForwardConfiguration: { timeToLiveSecs: 7200 } } },
  },
}

function Editor({ device, latest }: { device: string; latest: JsonObject }): ReactNode {
  const search = setModulesRoute.useSearch()
  const navigate = useNavigate()
  const queries = useQueryClient()
  const [current, setCurrent] = useState(latest)
  const bare = Object.keys((current as { modulesContent: object }).modulesContent).length === 0
  const before = pretty(current)
  const [text, setText] = useState(() => (bare ? pretty(EMPTY) : before))
  const [asked] = useDebouncedValue(text, TYPING_MS)
  const [reviewing, setReviewing] = useState(false)
  const [goTo, setGoTo] = useState<{ at: number; count: number }>()
  const view = search.view ?? 'edit'
  const check = useQuery({ queryKey: ['validate', asked], queryFn: ({ signal }) => validate(asked, signal), placeholderData: keepPreviousData, gcTime: 10_000 })
  const fresh = asked === text && !check.isPlaceholderData && check.data !== undefined
  const marks = useMemo(() => (check.data ? marksOf(check.data) : []), [check.data])
  const value = useMemo(() => parsed(text), [text])
  const differs = useMemo(() => (value === undefined ? [] : changes(current, value)), [current, value])
  const theirs = useMemo(() => changes(current, latest), [current, latest])
  const touched = text !== before && !bare
  const take = (mine: JsonObject | undefined): void => {
    setCurrent(latest)
    setText(pretty(mine === undefined ? latest : applyPatch(latest, mine)))
  }
  // What somebody else set is taken over while nothing is being edited here.
  useEffect(() => {
    if (theirs.length > 0 && !touched) take(undefined)
  }, [theirs])
  const show = (next: string): void => void navigate({ to: '.', search: { view: next === 'edit' ? undefined : next }, replace: true })
  const jump = (at: number): void => {
    show('edit')
    setGoTo({ at, count: (goTo?.count ?? 0) + 1 })
  }
  return (
    <Stack gap="md">
      <Group justify="space-between" gap="sm">
        <SegmentedControl data={VIEWS} value={view} onChange={show} aria-label="View of the manifest" />
        <Group gap="sm">
          <Verdict fresh={fresh} data={check.data} />
          <Button variant="default" disabled={text === before} onClick={() => setText(before)}>
            Undo all
          </Button>
          <Button disabled={!fresh || check.data?.valid !== true || differs.length === 0} onClick={() => setReviewing(true)}>
            Review and apply
          </Button>
        </Group>
      </Group>
      {bare && (
        <Alert color="denim" variant="light" title="Nothing is set on this device yet">
          Below is an empty manifest to start from: add modules under <code>modules</code> and routes under <code>routes</code>.
        </Alert>
      )}
      {theirs.length > 0 && touched && (
        <Meanwhile what="the manifest" theirs={theirs} mine={value === undefined ? undefined : differs} rebase={() => take(isObject(value) ? mergePatch(current, value) : undefined)} discard={() => take(undefined)} />
      )}
      {check.error && <Problem error={check.error} what="The hub cannot check the manifest" retry={() => void check.refetch()} />}
      <Suspense fallback={<Skeleton height={480} />}>
        {view === 'edit' && <Code value={text} label="Deployment manifest" change={setText} marks={marks} height="min(62vh, 640px)" goTo={goTo} />}
        {view === 'changes' && <Comparison before={before} text={text} differs={differs} readable={value !== undefined} />}
        {view === 'routes' && <Routes data={check.data} />}
        {view === 'command' && <Equivalent device={device} text={text} />}
      </Suspense>
      <Faults text={check.data && asked === text ? text : asked} marks={marks} open={jump} />
      {reviewing && (
        <Review
          device={device}
          text={text}
          before={before}
          differs={differs}
          close={() => setReviewing(false)}
          applied={() => {
            setReviewing(false)
            if (isObject(value)) {
              setCurrent(value)
              queries.setQueryData(['content', device], value)
            }
          }}
        />
      )}
    </Stack>
  )
}

function marksOf(data: Validation): Marked[] {
  const mark = (severity: Marked['severity']) => (fault: ContentFault): Marked => ({ from: fault.from ?? 0, to: fault.to ?? fault.from ?? 0, message: `${fault.module ? `${fault.module}: ` : ''}${fault.message}`, severity })
  // What has no effect is no fault, but worth a look.
  return [...data.faults.map(mark('error')), ...(data.notices ?? []).map(mark('warning'))]
}

function Verdict({ fresh, data }: { fresh: boolean; data: Validation | undefined }): ReactNode {
  if (!fresh || !data) return <State tone="quiet">checking…</State>
  return (
    <span role="status" data-valid={data.valid}>
      {data.valid ? <State tone="ok">valid: {data.modules.length} modules, {data.routes.length} routes</State> : <State tone="bad">{data.faults.length === 1 ? '1 fault' : `${data.faults.length} faults`}</State>}
    </span>
  )
}

function Comparison({ before, text, differs, readable }: { before: string; text: string; differs: ReturnType<typeof changes>; readable: boolean }): ReactNode {
  return (
    <Stack gap="sm">
      {readable ? <Changes changes={differs} /> : <Text>The text is not JSON yet; the comparison is by lines.</Text>}
      <Code value={text} original={before} label="Comparison with what is set" height="min(50vh, 480px)" />
    </Stack>
  )
}

function Routes({ data }: { data: Validation | undefined }): ReactNode {
  const drawn = useMemo(() => graph(data?.modules ?? [], data?.routes ?? []), [data])
  if (!data) return <Skeleton height={420} />
  const known = new Set(data.modules)
  return (
    <Stack gap="sm">
      <GraphView
        graph={drawn}
        label="Preview of modules and routes"
        node={(name) => ({ title: name === '$upstream' ? 'Hub' : name, lines: name.startsWith('$') || known.has(name) ? [] : ['not in this manifest'], tone: name.startsWith('$') || known.has(name) ? 'ok' : 'bad' })}
        edge={(edge) => {
          const held = drawn.edges.find((item) => item.id === edge)
          return { lines: held ? [held.route.name, ...(held.route.condition ? [`if ${held.route.condition}`] : [])] : [], tone: 'ok' }
        }}
      />
      <Table.ScrollContainer minWidth={560} scrollAreaProps={{ viewportProps: { tabIndex: 0, 'aria-label': 'Routes' } }}>
        <Table>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Route</Table.Th>
              <Table.Th>From</Table.Th>
              <Table.Th>If</Table.Th>
              <Table.Th>To</Table.Th>
              <Table.Th>Keeps for</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {data.routes.map((route) => (
              <Table.Tr key={route.name}>
                <Table.Td>{route.name}</Table.Td>
                <Table.Td className="mono">{route.source}</Table.Td>
                <Table.Td className="mono">{route.condition ?? '–'}</Table.Td>
                <Table.Td className="mono">{route.endpoint}</Table.Td>
                <Table.Td>{route.timeToLiveSecs === null ? 'as set' : `${route.timeToLiveSecs} s`}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
    </Stack>
  )
}

function Equivalent({ device, text }: { device: string; text: string }): ReactNode {
  return (
    <Stack gap="sm">
      <Group justify="space-between">
        <Text>Save the manifest as deployment.json, then:</Text>
        <Copy text={text} label="Copy the manifest" />
      </Group>
      <Command text={`selvedge edge set-modules ${quoted(device)} --content deployment.json`} />
    </Stack>
  )
}

function Review({ device, text, before, differs, close, applied }: { device: string; text: string; before: string; differs: ReturnType<typeof changes>; close: () => void; applied: () => void }): ReactNode {
  const apply = useMutation({
    mutationFn: () => applyContent(device, text),
    onSuccess: () => {
      notifications.show({ message: 'Set. The tab “Modules” shows how the device takes it over.', color: 'teal' })
      applied()
    },
  })
  return (
    <Modal opened onClose={close} title={`What changes on ${device}`} size="xl" closeButtonProps={{ 'aria-label': 'Close' }}>
      <Stack>
        <Changes changes={differs} />
        <Suspense fallback={<Skeleton height={240} />}>
          <Code value={text} original={before} label="Comparison with what is set" height="300px" />
        </Suspense>
        <Command text={`selvedge edge set-modules ${quoted(device)} --content deployment.json`} />
        {apply.error && <Problem error={apply.error} what="Not set" />}
        <Group justify="flex-end">
          <Button variant="default" onClick={close}>
            Back to the editor
          </Button>
          <Button onClick={() => apply.mutate()} loading={apply.isPending}>
            Apply to {device}
          </Button>
        </Group>
      </Stack>
    </Modal>
  )
}
