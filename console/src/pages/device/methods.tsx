/** Direct methods: call one, see what was called before. */
import { Autocomplete, Button, Card, Group, NumberInput, Select, SimpleGrid, Skeleton, Stack, Table, Text, Title } from '@mantine/core'
import { useInfiniteQuery, useMutation, useQueryClient, type InfiniteData, type QueryClient } from '@tanstack/react-query'
import { useNavigate } from '@tanstack/react-router'
import { Suspense, useEffect, useMemo, useState, type ReactNode } from 'react'

import { invoke, methodCalls, methodsKey } from '../../api/queries'
import type { MethodCall, MethodCalls, MethodResult } from '../../api/types'
import { methodsRoute } from '../../app/router'
import { Ago, Command, Problem } from '../../parts/common'
import { later } from '../../parts/later'
import { State } from '../../parts/state'
import type { Json } from '../../pure/json'
import { pretty } from '../../pure/json'
import { Mistake, readPlaces } from '../../pure/places'
import { withNews } from '../../pure/history'
import { moduleNames, quoted, useDevice } from './context'

const Code = later(() => import('../../parts/code'))

const DEVICE = '(the device itself)'
const SECONDS_MIN = 5
const SECONDS_MAX = 300
/** The newest page of the history is read so often while somebody looks, in milliseconds. */
const HISTORY_MS = 5_000
/** The hub notes a call right after it answered it, in milliseconds. */
const NOTED_MS = 300
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
  const history = useHistory(id)
  const run = useMutation({
    mutationFn: () => invoke(id, module, name, payload.value ?? null, seconds),
    onSettled: () => setTimeout(() => void history.news(), NOTED_MS),
  })
  const set = (part: Partial<typeof search>): void => void navigate({ to: '.', search: { ...search, ...part }, replace: true })
  const choose = (method: string): void => {
    set({ method: method || undefined })
    if (module === '$edgeAgent' && method in AGENT) setText(pretty(AGENT[method]))
  }
  const suggestions = module === '$edgeAgent' ? Object.keys(AGENT) : [...new Set(history.calls.filter((call) => call.moduleId === module).map((call) => call.method))]
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
        <Title order={2}>History</Title>
        {history.error !== null && <Problem error={history.error} what="The history cannot be read" retry={() => void history.news()} />}
        {history.loading && <Skeleton height={160} />}
        {!history.loading && history.error === null && history.calls.length === 0 && (
          <Text c="dimmed">Nobody has called a method on this device yet. Calls of every user appear here, from the console, the command line and the API alike.</Text>
        )}
        {history.calls.length > 0 && <Calls calls={history.calls} />}
        {history.more !== undefined && (
          <Button variant="default" onClick={history.more} loading={history.reading}>
            Show earlier calls
          </Button>
        )}
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

type History = { calls: MethodCall[]; error: Error | null; loading: boolean; reading: boolean; more: (() => void) | undefined; news: () => Promise<void> }

/** Calls of all users as the hub keeps them: page by page into the past, and the newest while one looks. */
function useHistory(device: string): History {
  const queries = useQueryClient()
  const read = useInfiniteQuery({
    queryKey: methodsKey(device),
    queryFn: ({ pageParam, signal }) => methodCalls(device, pageParam, signal),
    initialPageParam: undefined as number | undefined,
    getNextPageParam: (page) => page.next ?? undefined,
  })
  const news = (): Promise<void> => takeNews(queries, device)
  useEffect(() => {
    const timer = setInterval(() => {
      if (!document.hidden) void news()
    }, HISTORY_MS)
    return () => clearInterval(timer)
  }, [device])
  return {
    calls: read.data?.pages.flatMap((page) => page.calls) ?? [],
    error: read.data === undefined ? read.error : null,
    loading: read.isLoading,
    reading: read.isFetchingNextPage,
    more: read.hasNextPage ? () => void read.fetchNextPage() : undefined,
    news,
  }
}

/** Reads the newest page only, whatever was looked at further back. */
async function takeNews(queries: QueryClient, device: string): Promise<void> {
  const queryKey = methodsKey(device)
  const held = queries.getQueryData<InfiniteData<MethodCalls, number | undefined>>(queryKey)
  if (!held) return queries.invalidateQueries({ queryKey })
  let page: MethodCalls
  try {
    page = await methodCalls(device, undefined, AbortSignal.timeout(HISTORY_MS))
  } catch {
    // What is shown stays; the header says when the hub is away, and the next turn asks again.
    return
  }
  queries.setQueryData<InfiniteData<MethodCalls, number | undefined>>(queryKey, (now) => now && { ...now, pages: withNews(now.pages, page) })
}

function Calls({ calls }: { calls: readonly MethodCall[] }): ReactNode {
  return (
    <>
      <Table.ScrollContainer minWidth={480} scrollAreaProps={{ viewportProps: { tabIndex: 0, 'aria-label': 'Calls of direct methods' } }}>
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
              <Table.Tr key={call.id} data-call={call.id}>
                <Table.Td className="nowrap">
                  <Ago time={call.at} />
                </Table.Td>
                <Table.Td className="mono">
                  {call.moduleId !== null && `${call.moduleId} / `}
                  {call.method}
                </Table.Td>
                <Table.Td>
                  {call.status === null ? (
                    <>
                      <State tone="bad">no answer</State>
                      <Text size="xs" c="dimmed">
                        {call.error}
                      </Text>
                    </>
                  ) : (
                    <State tone={call.status < 300 ? 'ok' : 'bad'}>{call.status}</State>
                  )}
                </Table.Td>
                <Table.Td className="nowrap">{call.durationMs} ms</Table.Td>
                <Table.Td>{call.by}</Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
      <Text size="xs" c="dimmed">
        The hub remembers the calls of all users as long as its change feed. Payloads and answers are not kept: they may hold secrets.
      </Text>
    </>
  )
}
