/** Direct methods: call one, see what was called before. */
import { Alert, Autocomplete, Button, Card, Group, NumberInput, Select, SimpleGrid, Skeleton, Stack, Table, Text, Title } from '@mantine/core'
import { useMutation } from '@tanstack/react-query'
import { useNavigate } from '@tanstack/react-router'
import { lazy, Suspense, useMemo, useState, useSyncExternalStore, type ReactNode } from 'react'

import { invoke } from '../../api/queries'
import type { MethodResult } from '../../api/types'
import { useDoor } from '../../app/sign-in'
import { methodsRoute } from '../../app/router'
import { Ago, Command, Problem } from '../../parts/common'
import { State } from '../../parts/state'
import type { Json } from '../../pure/json'
import { pretty } from '../../pure/json'
import { Mistake, readPlaces } from '../../pure/places'
import { callsOf, remember, watchCalls, type Call } from './calls'
import { moduleNames, quoted, useDevice } from './context'

const Code = lazy(() => import('../../parts/code'))

const DEVICE = '(the device itself)'
const SECONDS_MIN = 5
const SECONDS_MAX = 300
/** What the runtime itself answers, with a payload to start from. */
const AGENT: Record<string, Json> = {
  ping: null,
  RestartModule: { schemaVersion: '1.0', id: 'module' },
  GetModuleLogs: { schemaVersion: '1.0', items: [{ id: 'all', filter: { tail: 20 } }], encoding: 'none', contentType: 'text' },
}

export function Methods(): ReactNode {
  const { id, view } = useDevice()
  const search = methodsRoute.useSearch()
  const navigate = useNavigate()
  const module = search.module ?? (view.edge ? '$edgeAgent' : null)
  const name = search.method ?? (module === '$edgeAgent' ? 'ping' : '')
  const [text, setText] = useState(() => pretty(AGENT[name] ?? null))
  const [seconds, setSeconds] = useState(30)
  const payload = useMemo(() => read(text), [text])
  const { session } = useDoor()
  const calls = useSyncExternalStore(watchCalls, () => callsOf(id))
  const run = useMutation({
    mutationFn: async () => {
      const start = Date.now()
      const call = { at: new Date(start).toISOString(), moduleId: module, method: name, by: session.policy }
      try {
        const result = await invoke(id, module, name, payload.value ?? null, seconds)
        remember(id, { ...call, status: result.status, error: null, durationMs: Date.now() - start })
        return result
      } catch (error) {
        remember(id, { ...call, status: null, error: error instanceof Error ? error.message : String(error), durationMs: Date.now() - start })
        throw error
      }
    },
  })
  const set = (part: Partial<typeof search>): void => void navigate({ to: '.', search: { ...search, ...part }, replace: true })
  const choose = (method: string): void => {
    set({ method: method || undefined })
    if (module === '$edgeAgent' && method in AGENT) setText(pretty(AGENT[method]))
  }
  const suggestions = module === '$edgeAgent' ? Object.keys(AGENT) : [...new Set(calls.filter((call) => call.moduleId === module).map((call) => call.method))]
  return (
    <SimpleGrid cols={{ base: 1, lg: 2 }} spacing="md">
      <Stack gap="sm">
        <Title order={2}>Call a method</Title>
        <Group gap="sm" align="flex-end">
          <Select label="On" data={[DEVICE, ...moduleNames(view)]} value={module ?? DEVICE} onChange={(chosen) => set({ module: chosen === DEVICE ? undefined : (chosen ?? undefined), method: undefined })} allowDeselect={false} w={200} />
          <Autocomplete label="Method" data={suggestions} value={name} onChange={choose} flex={1} miw={180} />
          <NumberInput label="Wait, seconds" value={seconds} onChange={(value) => setSeconds(Number(value) || SECONDS_MIN)} min={SECONDS_MIN} max={SECONDS_MAX} w={120} />
        </Group>
        <Suspense fallback={<Skeleton height={160} />}>
          <Code value={text} label="Payload as JSON" change={setText} height="160px" marks={payload.marks} />
        </Suspense>
        <Group>
          <Button onClick={() => run.mutate()} loading={run.isPending} disabled={name === '' || payload.value === undefined}>
            Call
          </Button>
          {payload.value === undefined && <Text size="sm">The payload is not JSON: {payload.marks[0]?.message}</Text>}
        </Group>
        {run.data && <Answer result={run.data} />}
        {run.error && <Problem error={run.error} what="The method gave no answer" />}
        <Command text={`selvedge method ${quoted(id)}${module === null ? '' : ` -m ${quoted(module)}`} ${name === '' ? 'NAME' : quoted(name)} '${compact(payload.value)}'`} />
      </Stack>
      <Stack gap="sm">
        <Title order={2}>Calls of this visit</Title>
        {calls.length === 0 ? <Text c="dimmed">Nothing has been called on this device since this page was opened.</Text> : <History calls={calls} />}
      </Stack>
    </SimpleGrid>
  )
}

function compact(value: Json | undefined): string {
  return JSON.stringify(value ?? null).replaceAll("'", "'\\''")
}

function read(text: string): { value: Json | undefined; marks: { from: number; to: number; message: string; severity: 'error' }[] } {
  if (text.trim() === '') return { value: null, marks: [] }
  try {
    return { value: readPlaces(text).value, marks: [] }
  } catch (error) {
    if (!(error instanceof Mistake)) throw error
    return { value: undefined, marks: [{ from: error.at, to: error.at + 1, message: error.message, severity: 'error' }] }
  }
}

function Answer({ result }: { result: MethodResult }): ReactNode {
  const good = result.status >= 200 && result.status < 300
  return (
    <Card padding="sm" role="status">
      <State tone={good ? 'ok' : 'bad'}>the device answered {result.status}</State>
      <pre className="mono" style={{ overflow: 'auto', maxHeight: 320, margin: '0.5rem 0 0' }} tabIndex={0}>
        {pretty(result.payload)}
      </pre>
    </Card>
  )
}

function History({ calls }: { calls: readonly Call[] }): ReactNode {
  return (
    <>
      <Table.ScrollContainer minWidth={460} scrollAreaProps={{ viewportProps: { tabIndex: 0, 'aria-label': 'Calls of this visit' } }}>
        <Table>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>When</Table.Th>
              <Table.Th>Method</Table.Th>
              <Table.Th>Answer</Table.Th>
              <Table.Th>Took</Table.Th>
              <Table.Th>By</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {calls.map((call) => (
              <Table.Tr key={call.number}>
                <Table.Td className="nowrap">
                  <Ago time={call.at} />
                </Table.Td>
                <Table.Td className="mono">
                  {call.moduleId !== null && `${call.moduleId} / `}
                  {call.method}
                </Table.Td>
                <Table.Td>
                  {call.status === null ? <State tone="bad">{call.error ?? 'no answer'}</State> : <State tone={call.status < 300 ? 'ok' : 'bad'}>{call.status}</State>}
                </Table.Td>
                <Table.Td className="nowrap">{call.durationMs} ms</Table.Td>
                <Table.Td>{call.by}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
      <Alert variant="light" color="denim" p="xs">
        <Text size="xs">Only this browser remembers them, until the page is closed. Payloads and answers are not kept: they may hold secrets.</Text>
      </Alert>
    </>
  )
}
